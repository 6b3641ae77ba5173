"""Sinks get the numbers of metrics.jsonl, each step once, and never end a run. Their packages are stand-ins here."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from runs import lines, write_config

import train.commands.sweep
from train.cli import main
from train.commands.sweep import grouped
from train.config import TrainConfig
from train.config_file import build_config
from train.runs.folder import RunFolder
from train.runs.metrics import MetricsFile
from train.runs.sinks import SINKS, Guarded, numbers

pytestmark = pytest.mark.newest


class FakeTracker(ModuleType):
    """In place of wandb or trackio, where `log` fails from a step on."""

    def __init__(self, name: str, fails_at: int = 1000) -> None:
        super().__init__(name)
        self.fails_at, self.inits, self.logged, self.finished = fails_at, list[dict[str, Any]](), list[Any](), 0

    def init(self, **options: Any) -> "FakeTracker":
        self.inits.append(options)
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        if step >= self.fails_at:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture
def tracker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeTracker:
    fake = FakeTracker(request.param)
    monkeypatch.setitem(sys.modules, request.param, fake)
    return fake


def test_every_sink_can_be_chosen() -> None:
    for name in SINKS:
        assert TrainConfig(sink=name).sink == name  # type: ignore[arg-type]


def test_numbers_are_all_but_the_step_and_what_there_is_not() -> None:
    record = {"step": 3, "tokens": 96, "train_loss": None, "val_loss": 2.5, "user/norm": 1.0}
    assert numbers(record) == {"tokens": 96, "val_loss": 2.5, "user/norm": 1.0}


@pytest.mark.parametrize("tracker", ["wandb", "trackio"], indirect=True)
def test_a_tracker_finds_a_resumed_run_again_and_gets_each_step_once(tracker: FakeTracker, tmp_path: Path) -> None:
    name, folder = tracker.__name__, RunFolder(tmp_path / "a run")
    folder.path.mkdir()
    file = MetricsFile(folder.metrics, 0)
    for done, end in ((0, 3), (2, 5)):  # the second process goes on from step 2
        sink = Guarded(name, folder, {"train": {"steps": 5}}, done)
        for step in range(done + 1, end + 1):
            record = {"step": step, "elapsed_s": 1.0, "train_loss": 1.0, "tokens_per_s": 1.0}
            file.write(record)
            sink.write(record)
        sink.close()
    file.close()
    sink = Guarded(name, folder, {}, 5)
    sink.write({"step": 5, "val_loss": 2.0})  # was left to the next process
    assert [step for step, _ in tracker.logged] == [1, 2, 3, 4, 5, 5] and tracker.logged[-1][1] == {"val_loss": 2.0}
    first, second, _ = tracker.inits
    assert first == second and tracker.finished == 2
    assert first["project"] == "jaxllm" and first["resume"] == "allow" and first["name"].startswith("a-run-")
    assert name == "trackio" or (first["id"], first["dir"]) == (first["name"], str(folder.path))
    assert name == "trackio" or first.get("reinit") == "create_new"  # beside other runs of a sweep
    other = RunFolder(tmp_path / "other" / "a run")
    other.path.mkdir(parents=True)
    Guarded(name, other, {}, 0)
    assert tracker.inits[-1]["name"] != first["name"]


def test_a_sweep_trains_runs_together_unless_a_tracker_takes_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.commands.sweep, "most_together", lambda _: 9)
    for name, sizes in (("trackio", [1, 1]), ("wandb", [2]), ("tensorboard", [2])):
        configs = [build_config({"train": {"sink": name, "seed": seed}}) for seed in (0, 1)]
        runs: Any = [
            SimpleNamespace(name=str(i), run=SimpleNamespace(config=c, model=c.model, base=None))
            for i, c in enumerate(configs)
        ]
        assert [len(group) for group in grouped(runs, {"0": 0, "1": 0}, None)] == sizes


def test_tensorboard_gets_events_and_the_step_from_which_to_drop_older_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []

    class Message(dict[str, Any]):
        START, Value = 1, dict

    class EventFileWriter:
        def __init__(self, logdir: str) -> None:
            assert logdir == str(tmp_path / "tensorboard")

        def add_event(self, event: dict[str, Any]) -> None:
            written.append(event)

        def flush(self) -> None:
            written.append("flushed")

        def close(self) -> None:
            written.append("closed")

    for name, members in {
        "tensorboard.compat.proto.event_pb2": {"Event": Message, "SessionLog": Message},
        "tensorboard.compat.proto.summary_pb2": {"Summary": Message},
        "tensorboard.summary.writer.event_file_writer": {"EventFileWriter": EventFileWriter},
    }.items():
        fake = ModuleType(name)
        vars(fake).update(members)
        monkeypatch.setitem(sys.modules, name, fake)
    sink = Guarded("tensorboard", RunFolder(tmp_path), {}, 7)
    sink.write({"step": 8, "train_loss": 2.0})
    sink.close()
    start, _, event, *rest = written
    assert start["step"] == 8 and start["session_log"] == {"status": 1} and rest == ["flushed", "closed"]
    assert event["step"] == 8 and event["summary"] == {"value": [{"tag": "train_loss", "simple_value": 2.0}]}


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("tracker", ["wandb"], indirect=True)
def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(
    tracker: FakeTracker, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.fails_at = 3
    config, run = str(write_config(tmp_path)), tmp_path / "run"
    start = ["train", config, "--set", "train.steps=5", "--set", "train.sink=wandb", "--out"]
    assert main([*start, str(run)]) == 0
    assert [step for step, _ in tracker.logged] == [1, 2] and len(lines(run)) == 5
    assert tracker.logged[0][1] == numbers(lines(run)[0]) and tracker.inits[0]["config"]["train"]["steps"] == 5
    assert capsys.readouterr().err.count("note: wandb failed (no network); the run goes on without it") == 1
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import of it fails
    assert main([*start, str(tmp_path / "missing")]) == 2
    error = capsys.readouterr().err
    assert "train.sink is 'wandb'" in error and "pip install 'jaxllm[wandb]'" in error and error.count("\n") == 1
    assert not (tmp_path / "missing").exists()
