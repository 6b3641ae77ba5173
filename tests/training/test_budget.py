"""A run with a time limit: which steps of the schedule it takes, where it ends, and what a resumed one has left.

The clock is a test's own, on which each training step takes a second, so that the runs are the same each time.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runs import Step, assert_same_run, lines, write_config

import train.loop
import train.runs.step_log
from train.budget import forecast, is_over, last_line, schedule_step, used_s
from train.cli import main
from train.config import OptimizerConfig, RunConfig, TrainConfig
from train.optimizer import learning_rate_schedule
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.runs.step_log import StepLog

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

CONFIG = RunConfig(train=TrainConfig(steps=100, seconds=20.0), optimizer=OptimizerConfig(warmup_steps=10))
OF_SCHEDULE = [1, 2, 3, 4, 6, 8, 9, 11]  # of 12 steps, 2 of them warm-up, of which 8 fit
LIMIT = ["--set", "train.seconds=8"]


class Killed(Exception):
    """In place of a signal that ends the process at once."""


class Clock:
    """A clock on which only steps take time, in place of the module `time`."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Steps take a second each; after those in the list, once each, the run is killed."""
    begin, steps, clock = train.loop.init_and_compile, list[int](), Clock()

    def begun(*arguments: Any) -> Any:
        state, compiled = begin(*arguments)

        def train_step(state: Any, *batch: object) -> Any:
            result = compiled(state, *batch)
            clock.now += 1
            if int(result[0].step) in steps:
                steps.remove(int(result[0].step))
                raise Killed
            return result

        return state, Step(train_step)

    monkeypatch.setattr(train.loop, "init_and_compile", begun)
    monkeypatch.setattr(train.runs.step_log, "time", clock)
    return steps


def records(*seconds: float) -> list[dict[str, Any]]:
    return [{"step": i, "elapsed_s": 1.5 * s, "train_s": s} for i, s in enumerate(seconds, start=1)]


def test_the_warm_up_takes_its_steps_and_the_rest_of_the_schedule_the_rest_of_the_time() -> None:
    assert [schedule_step(CONFIG, step, records(*range(1, step + 1))) for step in (0, 9, 10)] == [0, 9, 10]
    assert [schedule_step(CONFIG, n, records(*range(1, n + 1))) for n in (11, 15, 19)] == [19, 55, 91]
    assert schedule_step(CONFIG, 19, records(*range(1, 11), *[20.0] * 9)) == 99  # the last one at most
    quick = records(*(i / 100 for i in range(1, 51)))  # all steps fit: none is left out
    assert [schedule_step(CONFIG, n, quick[:n]) for n in (20, 50)] == [20, 50]
    assert schedule_step(replace(CONFIG, train=TrainConfig(steps=100)), 19, records(*range(1, 20))) == 19


def test_a_run_is_over_by_steps_or_by_seconds() -> None:
    assert [is_over(CONFIG.train, *done) for done in ((99, 19.9), (100, 0.0), (1, 20.0))] == [False, True, True]
    assert not is_over(TrainConfig(steps=100), 99, 1e9)
    assert used_s([]) == 0 and used_s(records(1, 2)) == 2
    assert used_s([{"step": 1, "elapsed_s": 3.0}]) == 3  # of a run that had no time limit until now


def test_what_will_fit_and_what_ended_it() -> None:
    slow, fast = records(*range(5, 15)), records(*(5 + i / 100 for i in range(10)))
    assert forecast(CONFIG, slow).endswith("about 16 steps will fit into train.seconds = 20")
    assert "so train.steps = 100 will end the run" in forecast(CONFIG, fast)
    few = replace(CONFIG, optimizer=OptimizerConfig(warmup_steps=50))
    assert "no more than optimizer.warmup_steps = 50: give it more time" in forecast(few, slow)
    assert "train.steps = 100 are done" in last_line(CONFIG, 100)
    assert "used up after 11 steps; evaluating" in last_line(CONFIG, 11)
    assert "used up after 10 steps, within the 10 of the warm-up" in last_line(CONFIG, 10)


def test_a_run_ends_with_its_time_and_the_end_of_its_schedule(
    tmp_path: Path, killed_after: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed on the way it goes on with the seconds that its checkpoint had left; with more it goes on from its end."""
    config, whole, run = str(write_config(tmp_path)), tmp_path / "whole", tmp_path / "run"
    assert main(["train", config, "--out", str(whole), *LIMIT]) == 0
    said = capsys.readouterr().out
    assert "training ends after 8 s, or 12 steps" in said and "train.seconds = 8 are used up after 8 steps" in said
    assert [r["schedule_step"] for r in lines(whole)] == OF_SCHEDULE
    assert [r["train_s"] for r in lines(whole)] == [*range(1, 9)]
    schedule = learning_rate_schedule(load_run(whole).config.optimizer, 12)
    assert [r["learning_rate"] for r in lines(whole)] == [pytest.approx(float(schedule(s - 1))) for s in OF_SCHEDULE]
    assert "val_loss" in lines(whole)[-1] and Checkpoints(whole / "checkpoints").latest_step() == 8

    killed_after[:] = [7]
    resume = ["train", "--out", str(run), "--resume"]
    with pytest.raises(Killed):
        main(["train", config, "--out", str(run), *LIMIT])
    assert main(resume) == 0
    assert "of which 5.0 are used" in capsys.readouterr().out
    assert_same_run(run, whole)

    assert main(resume) == 0
    assert "has had all its 8 s, after 8 steps; to go on: --resume --set train.seconds=MORE" in capsys.readouterr().out
    assert main([*resume, "--set", "train.seconds=9.5"]) == 0
    assert [(r["step"], r["schedule_step"]) for r in lines(run)[8:]] == [(9, 11), (10, 12)]


def test_time_for_all_steps_gives_the_bits_of_a_run_without_a_limit(tmp_path: Path, killed_after: list[int]) -> None:
    config = [str(write_config(tmp_path)), "--set", "model.mup_base_width=2"]
    assert main(["train", *config, "--out", str(tmp_path / "a"), "--set", "train.seconds=100"]) == 0
    assert main(["train", *config, "--out", str(tmp_path / "b")]) == 0
    a, b = lines(tmp_path / "a"), lines(tmp_path / "b")
    for name in ("learning_rate", "train_loss", "grad_norm"):
        assert [r[name] for r in a] == [r[name] for r in b]
    assert set(a[0]) - set(b[0]) == {"train_s", "schedule_step"}


def test_what_will_fit_is_said_once(
    tmp_path: Path, killed_after: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the step after the tenth is not computed when its call returns, as on a mesh."""
    flush, ready = StepLog.flush_if_ready, iter([True] * 10 + [False] + [True] * 99)
    monkeypatch.setattr(StepLog, "flush_if_ready", lambda log: flush(log) if next(ready) else None)
    config, settings = str(write_config(tmp_path)), ["--set", "train.seconds=100", "--set", "eval.every=100"]
    assert main(["train", config, "--out", str(tmp_path / "run"), *settings]) == 0
    assert capsys.readouterr().out.count("will fit into train.seconds = 100") == 1


def test_a_limit_shorter_than_a_step_allows_one(tmp_path: Path, killed_after: list[int]) -> None:
    config, run = str(write_config(tmp_path)), tmp_path / "run"
    assert main(["train", config, "--out", str(run), "--set", "train.seconds=0.5"]) == 0
    assert [r["step"] for r in lines(run)] == [1] and "val_loss" in lines(run)[0]
