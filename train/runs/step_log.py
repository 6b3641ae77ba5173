"""What a run records of each step, once the device has computed it."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

from jax import Array

from ..budget import used_s
from ..errors import DivergedError
from .checkpoint import saved_steps
from .folder import RunFolder
from .loss_plot import draw_losses
from .metrics import MetricsFile, Record
from .sinks import Sink

StepMetrics = Mapping[str, Array]  # of one step: train_loss, learning_rate, grad_norm, not_finite


class Pending(NamedTuple):
    """A step whose metrics are not yet recorded."""

    step: int
    metrics: StepMetrics
    data_wait_s: float
    schedule_step: int | None  # of a run with a time limit


class Display(Protocol):
    """What shows the progress of a run (`train.progress`)."""

    def step(self, record: Record) -> None:
        """Show the record of a step."""

    def note(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """End the display."""


class Plan(NamedTuple):
    """What a log needs to know of its run, and the words for what a diverged one should change."""

    steps: int
    tokens_per_step: int
    max_skipped: int = 0
    lower: str = "lower optimizer.learning_rate or raise optimizer.warmup_steps"
    allow: str = "train.max_skipped"


class StepLog:
    """Metrics of steps on their way from the device: each is fetched after the next step is dispatched."""

    def __init__(
        self, plan: Plan, folder: RunFolder, done: int, explain: Callable[[int, StepMetrics], str],
        display: Callable[[int, int], Display], sink: Sink,
    ) -> None:  # fmt: skip
        """Continue the metrics of `done` steps.

        `explain(step, metrics)` says where a step was not finite; `display(steps, done)` starts the display; the sink
        gets each record.
        """
        self._folder, self._explain, self._sink = folder, explain, sink
        self._plan = plan
        self._file = MetricsFile(folder.metrics, done)
        self._skipped = sum("skipped" in record for record in self._file.records)
        self._before = self._file.records[-1]["elapsed_s"] if self._file.records else 0.0
        self._trained = used_s(self._file.records)
        self._display = display(plan.steps, done)
        self._pending: Pending | None = None
        self._computed: float | None = None  # when the pending step was seen to be computed
        self._start = self._clock = time.perf_counter()

    @property
    def last(self) -> Record:
        """The newest record, {} before the first step."""
        return self._file.records[-1] if self._file.records else {}

    @property
    def records(self) -> Sequence[Record]:
        """All records, from step 1 on."""
        return self._file.records

    @property
    def trained_s(self) -> float:
        """Seconds of training, all processes of the run together, up to the newest step that is computed.

        Compiling, evaluating and waiting for a checkpoint are not part of it; waiting for data is.
        """
        if self._computed is None and self._is_computed():
            self._computed = time.perf_counter()
        return self._trained if self._computed is None else round(self._trained + self._computed - self._clock, 6)

    def add(self, step: int, metrics: StepMetrics, data_wait_s: float, schedule_step: int | None = None) -> None:
        """Record the step before; keep the metrics of a step just dispatched, and how long its batch was waited for.

        With the step of the schedule that it took, of a run with a time limit, that and `trained_s` are recorded.
        """
        self.flush()
        self._pending = Pending(step, metrics, data_wait_s, schedule_step)

    def flush(self, measure: Callable[[], dict[str, float]] = dict) -> None:
        """Fetch and record the pending step, together with what `measure` then returns."""
        if self._pending is None:
            return
        (step, metrics, data_wait_s, schedule_step), self._pending = self._pending, None
        values: Record = {name: float(value) for name, value in metrics.items()}
        now, self._computed = self._computed or time.perf_counter(), None
        self._trained = round(self._trained + now - self._clock, 6)
        record: Record = {
            "step": step,
            "tokens": step * self._plan.tokens_per_step,
            "elapsed_s": round(self._before + now - self._start, 4),
            **self._finite(step, metrics, values),
            "tokens_per_s": round(self._plan.tokens_per_step / max(now - self._clock, 1e-9), 1),
            "data_wait_s": round(data_wait_s, 6),
        }
        if schedule_step is not None:
            record |= {"train_s": self._trained, "schedule_step": schedule_step}
        measured = measure()
        self.check(step, measured)
        self._file.write(record | measured)
        self._sink.write(record | measured)
        self._display.step(record | measured)
        self._clock = time.perf_counter() if measured else now

    def flush_if_ready(self) -> None:
        """Record the pending step if its metrics are computed.

        On a CPU a step is computed when its call returns (`train.runtime.allocator`).
        """
        if self._is_computed():
            self.flush()

    def _is_computed(self) -> bool:
        pending = self._pending
        return pending is not None and all(cast(Any, value).is_ready() for value in pending.metrics.values())

    def unmeasured(self, step: int) -> bool:
        """Whether the newest record is of that step and has no validation loss."""
        return self.last.get("step") == step and "val_loss" not in self.last

    def complete(self, measured: dict[str, float]) -> None:
        """Add to the last record what could not be measured before the run was stopped."""
        if measured:
            self._file.amend(measured)
            self._sink.write({"step": self.last["step"], **measured})
            self._display.step(self.last)

    def note(self, text: str) -> None:
        """Show a line of text."""
        self._display.note(text)

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the next step's speed."""
        self._clock = time.perf_counter()

    def sync(self) -> None:
        """Write all records to the disk."""
        self._file.sync()

    def check(self, step: int, values: dict[str, float]) -> None:
        """Raises DivergedError for a non-finite value."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} at step {step:,}: the run has diverged; {self._plan.lower} and start again "
                    f"({self._kept()})."
                )

    def close(self) -> None:
        """Draw the losses, also after an interruption."""
        self._display.close()
        self._file.close()
        self._sink.close()
        draw_losses(self._file.records, self._folder.loss_picture)

    def _finite(self, step: int, metrics: StepMetrics, values: Record) -> Record:
        """The values to be recorded; null for those of a step that was left out, with the number of such steps."""
        if values.pop("not_finite") < 0:  # only a user's metrics may be non-finite in such a step
            return {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._skipped += 1
        where = self._explain(step, metrics)
        if self._skipped > self._plan.max_skipped:
            raise DivergedError(f"{where}: {self._remedy(step)}")
        self._display.note(f"{where}: left out, {self._skipped:,} of at most {self._plan.max_skipped:,}")
        return {k: v if math.isfinite(v) else None for k, v in values.items()} | {"skipped": self._skipped}

    def _remedy(self, step: int) -> str:
        return (
            f"the run has diverged and step {step:,} was not applied; {self._plan.lower} and start again, or allow "
            f"{self._plan.allow} such steps ({self._kept()})."
        )

    def _kept(self) -> str:
        steps = saved_steps(self._folder.checkpoints)
        return f"{self._folder.checkpoints} holds " + (f"step {steps[-1]:,}" if steps else "no checkpoint yet")
