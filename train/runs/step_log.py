"""What a run writes down of each step, once the device has it."""

import math
import time
from collections.abc import Callable
from typing import Any, cast

from .checkpoint import saved_steps
from ..errors import DivergedError
from .folder import RunFolder
from ..inputs import Prepared
from ..progress import MetricsFile, Record, draw_losses, progress
from ..step import Metrics

Explain = Callable[[int, Metrics], str]


class Journal:
    """Metrics of steps on their way from the device: each is fetched after the next step is dispatched."""

    def __init__(self, run: Prepared, folder: RunFolder, done: int, explain: Explain) -> None:
        """Continue the metrics of `done` steps; `explain` says of a step and its metrics where it was not finite."""
        self._folder, self._explain = folder, explain
        self._tokens_per_step = run.config.train.batch_size * run.model.context_length
        self._file = MetricsFile(folder.metrics, done)
        self._max_skipped = run.config.train.max_skipped
        self._skipped = sum("skipped" in record for record in self._file.records)
        self._before = self._file.records[-1]["elapsed_s"] if self._file.records else 0.0
        self._progress = progress(run.config.train.steps, done)
        self._pending: tuple[int, Metrics, float] | None = None
        self._start = self._clock = time.perf_counter()

    @property
    def last(self) -> Record:
        """The newest record, {} before the first step."""
        return self._file.records[-1] if self._file.records else {}

    def add(self, step: int, metrics: Metrics, data_wait_s: float) -> None:
        """Take the metrics of a step just dispatched, and how long its batch was waited for; settle the step before."""
        self.settle()
        self._pending = (step, metrics, data_wait_s)

    def settle(self, measure: Callable[[], dict[str, float]] = dict) -> None:
        """Fetch and write what is pending, together with what `measure` then measures."""
        if self._pending is None:
            return
        (step, metrics, data_wait_s), self._pending = self._pending, None
        values: Record = {name: float(value) for name, value in metrics.items()}
        now = time.perf_counter()
        record: Record = {
            "step": step,
            "tokens": step * self._tokens_per_step,
            "elapsed_s": round(self._before + now - self._start, 4),
            **self._finite(step, metrics, values),
            "tokens_per_s": round(self._tokens_per_step / max(now - self._clock, 1e-9), 1),
            "data_wait_s": round(data_wait_s, 6),
        }
        measured = measure()
        self.check(step, measured)
        self._file.write(record | measured)
        self._progress.step(record | measured)
        self._clock = time.perf_counter() if measured else now

    def _finite(self, step: int, metrics: Metrics, values: Record) -> Record:
        """The values to be written; of a step that was left out null, and the number of such steps."""
        if values.pop("not_finite") < 0:
            return values
        self._skipped += 1
        where = self._explain(step, metrics)
        if self._skipped > self._max_skipped:
            raise DivergedError(f"{where}: {self._remedy(step)}")
        self._progress.note(f"{where}: left out, {self._skipped:,} of at most {self._max_skipped:,}")
        return {k: v if math.isfinite(v) else None for k, v in values.items()} | {"skipped": self._skipped}

    def _remedy(self, step: int) -> str:
        return (
            f"the run has diverged and step {step:,} was not applied; lower optimizer.learning_rate or raise "
            f"optimizer.warmup_steps and start again, or allow train.max_skipped such steps ({self._kept()})."
        )

    def _kept(self) -> str:
        steps = saved_steps(self._folder.checkpoints)
        return f"{self._folder.checkpoints} holds " + (f"step {steps[-1]:,}" if steps else "no checkpoint yet")

    def settle_done(self) -> None:
        """Settle what need not be waited for: on a CPU a step is done when its call returns (`train.runtime.allocator`)."""
        if self._pending and all(cast(Any, value).is_ready() for value in self._pending[1].values()):
            self.settle()

    def unmeasured(self, step: int) -> bool:
        """Whether the newest record is that step's and has no validation loss."""
        return self.last.get("step") == step and "val_loss" not in self.last

    def complete(self, measured: dict[str, float]) -> None:
        """Add to the last record what could not be measured before the run was stopped."""
        if measured:
            self._file.amend(measured)
            self._progress.step(self._file.records[-1])

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the next step's speed."""
        self._clock = time.perf_counter()

    def sync(self) -> None:
        """Have all that is written reach the disk."""
        self._file.sync()

    def check(self, step: int, values: dict[str, float]) -> None:
        """Raises DivergedError for a value that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} at step {step:,}: the run has diverged; lower optimizer.learning_rate or raise "
                    f"optimizer.warmup_steps and start again ({self._kept()})."
                )

    def close(self) -> None:
        """Draw the losses, also after an interruption."""
        self._progress.close()
        self._file.close()
        draw_losses(self._file.records, self._folder.loss_picture)
