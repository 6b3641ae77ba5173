"""What a run records of its steps while it runs, and which step each figure belongs to."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from runs import lines, piped

import train.progress
import train.runs.step_log
from train.errors import DivergedError
from train.progress import Lines, counted, record_line, training_progress
from train.runs.folder import RunFolder
from train.runs.loss_plot import running_mean
from train.runs.metrics import MetricsFile, add_sample
from train.runs.sinks import Guarded
from train.runs.step_log import Plan, StepLog

pytestmark = pytest.mark.newest

PLAN = Plan(steps=200, tokens_per_step=2 * 8, max_skipped=1)


class Clock:
    """A clock that a test advances, in place of the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(train.runs.step_log, "time", clock)
    return clock


def metrics(loss: float = 2.0, not_finite: int = -1) -> Any:
    values = {"train_loss": loss, "learning_rate": 0.1, "grad_norm": loss, "not_finite": not_finite}
    return {name: np.float32(value) for name, value in values.items()}


@contextmanager
def step_log(folder: Path, done: int = 0) -> Iterator[StepLog]:
    def explain(step: int, _: object) -> str:
        return f"step {step} explained"

    with closing(
        StepLog(PLAN, RunFolder(folder), done, explain, training_progress, Guarded(None, RunFolder(folder), {}, 0))
    ) as one:
        yield one


def test_each_line_of_metrics_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    """A killed run loses nothing that it has printed."""
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    for step in (1, 2, 3):
        file.write({"step": step})
        assert [record["step"] for record in lines(tmp_path)] == [*range(1, step + 1)]
    file.amend({"val_loss": 0.5})
    assert lines(tmp_path)[-1] == {"step": 3, "val_loss": 0.5} and len(lines(tmp_path)) == 3
    file.write({"step": 4})
    assert len(lines(tmp_path)) == 4
    file.close()


def test_lines_of_a_run_are_flushed(tmp_path: Path) -> None:
    """Into a pipe or a file, which Python would buffer up to 8 KiB."""
    record = {"step": 1, "train_loss": 2.0, "tokens_per_s": 3.0}
    output, shown = tmp_path / "out", Lines(200)
    with piped(output):
        shown.step(record)
        assert output.read_text() == record_line(record) + "\n"
        shown.note("a note")
        assert output.read_text().endswith("a note\n")


def test_progress_outside_a_terminal_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, now = tmp_path / "out", iter([0.0, 59.0, 60.0, 60.0, 61.0])
    monkeypatch.setattr(train.progress, "time", SimpleNamespace(monotonic=lambda: next(now)))
    with piped(output), counted("reading", 7) as tell:
        tell(1)
        assert output.read_text() == ""  # not yet a minute
        tell(2)
        assert output.read_text() == "reading: 2 of 7\n"
        tell(3)
    assert output.read_text().count("\n") == 1


def test_a_sample_is_in_the_file_as_soon_as_it_is_added(tmp_path: Path) -> None:
    add_sample(tmp_path / "samples.txt", 4, 2.0, "text")
    assert (tmp_path / "samples.txt").read_text() == "----- step 4, validation loss 2.0000\ntext\n\n"


def test_the_speed_of_a_step_is_of_its_own_time(tmp_path: Path, clock: Clock) -> None:
    """The time of an evaluation or a checkpoint belongs to no step, but to the run."""

    def measure() -> dict[str, float]:
        clock.now += 100
        return {"val_loss": 0.0}

    with step_log(tmp_path) as one:
        for step in (1, 2, 3, 4):
            one.add(step, metrics(), 0.25 * step)
            clock.now += 2
            one.flush(measure if step == 2 else dict)
            if step == 3:
                clock.now += 50  # a checkpoint
                one.restart_clock()
    records = lines(tmp_path)
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert [r["tokens_per_s"] for r in records] == [16 / 2] * 4
    assert [r["elapsed_s"] for r in records] == [2, 4, 106, 158]
    assert [r["data_wait_s"] for r in records] == [0.25, 0.5, 0.75, 1.0]
    assert [r.get("val_loss") for r in records] == [None, 0.0, None, None]  # 0 is recorded as well
    assert [r["tokens"] for r in records] == [16, 32, 48, 64]


def test_a_step_in_no_time_has_a_speed(tmp_path: Path, clock: Clock) -> None:
    with step_log(tmp_path) as one:
        one.add(1, metrics(), 0)
        one.flush()
        assert one.last["tokens_per_s"] > 1e9


def test_a_resumed_run_counts_on(tmp_path: Path, clock: Clock) -> None:
    """Seconds and left-out steps, counted over the records that are kept."""
    with step_log(tmp_path) as one:
        clock.now += 5
        one.add(1, metrics(), 0)
        one.add(2, metrics(np.nan, 0), 0)
        clock.now += 2
        one.flush()
    assert [r.get("skipped") for r in lines(tmp_path)] == [None, 1]
    clock.now = 0.0
    with step_log(tmp_path, 2) as two:
        clock.now += 1
        two.add(3, metrics(), 0)
        two.flush()
        assert lines(tmp_path)[-1]["elapsed_s"] == 5 + 2 + 1
        assert two.last["step"] == 3 and two.unmeasured(3) and not two.unmeasured(2)
        two.add(4, metrics(np.nan, 0), 0)
        with pytest.raises(DivergedError, match="step 4 explained: the run has diverged and step 4 was not applied"):
            two.flush()  # the second one; one is allowed
    with step_log(tmp_path, 1) as three:  # from a checkpoint before the step that was left out
        assert three.last["step"] == 1
        three.add(2, metrics(np.nan, 0), 0)
        clock.now += 1
        three.flush()
        assert three.last["skipped"] == 1


def test_a_validation_loss_of_0_is_a_measurement(tmp_path: Path, clock: Clock) -> None:
    with step_log(tmp_path) as one:
        clock.now += 1
        one.add(1, metrics(), 0)
        one.flush(lambda: {"val_loss": 0.0})
        assert not one.unmeasured(1) and "val 0.0000" in record_line(one.last)


def test_lines_are_twenty_over_a_run_and_each_evaluation(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Lines(200)
    for step in range(1, 201):
        record = {"step": step, "train_loss": None if step == 30 else 2.0, "tokens_per_s": 1234.5}
        shown.step(record | ({"val_loss": 3.0} if step == 55 else {}))
    printed = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in printed] == sorted([1, 55, *range(10, 201, 10)])
    assert printed[3] == "step     30  train left out  1,234 tokens/s"
    few = Lines(3)
    for step in (1, 2, 3):
        few.step({"step": step, "train_loss": 1.0, "tokens_per_s": 1.0})
    assert capsys.readouterr().out.count("\n") == 3


def test_the_running_mean_begins_at_the_first_value() -> None:
    assert running_mean([4.0]) == [4.0]
    assert running_mean([1.0, 3.0], 0.5) == [1.0, (0.25 * 1 + 0.5 * 3) / 0.75]
    assert running_mean([7.0] * 50) == pytest.approx([7.0] * 50)


def test_metrics_are_json_whatever_is_not_finite(tmp_path: Path, clock: Clock) -> None:
    with step_log(tmp_path) as one:
        clock.now += 1
        one.add(1, metrics(np.inf, 0), 0)
        one.flush()
    (record,) = lines(tmp_path)
    json.dumps(record, allow_nan=False)
    assert record["train_loss"] is record["grad_norm"] is None and record["learning_rate"] == pytest.approx(0.1)
