"""The training loop: dispatch a step, then look at the one before, so that an accelerator never waits.

nanodo's order of things; what a step computes is in `train.step`, what is shown in `train.report`.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import optax

from jaxllm.data import batch
from jaxllm.data.pairs import Ids
from jaxllm.gpt import GPT
from train.checkpoint import Checkpoints
from train.errors import DivergedError
from train.evaluate import evaluator, sample_text
from train.feed import feed
from train.folder import RunFolder
from train.prepare import Prepared
from train.profile import profiled
from train.report import SAMPLE, MetricsFile, Record, draw_losses, drop_samples, progress
from train.step import (
    Metrics,
    TrainState,
    begin,
    learning_rate_schedule,
    make_optimizer,
)


def train(run: Prepared, folder: RunFolder, profile: int | None = None) -> TrainState:
    """Train from the newest checkpoint of the folder, or from the start, to the last step.

    Leaves metrics.jsonl, loss.png, samples.txt and checkpoints, and prints where the time of `profile` steps goes.
    Raises DivergedError when the loss, the gradient or the parameters to be saved are not finite; a checkpoint never
    holds such parameters.
    """
    config, model = run.config, GPT(run.model, run.config.train.dtype, run.config.train.remat)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    with (
        profiled(profile, folder.profile) as recorder,
        Checkpoints(folder.checkpoints, config.checkpoint.keep) as checkpoints,
    ):
        state, train_step = begin(model, optimizer, config.train, schedule)
        if checkpoints.latest_step() is not None:
            state = checkpoints.restore(state)
        steps = range(int(state.step), config.train.steps)
        journal = Journal(run, folder, steps.start)
        drop_samples(folder.samples, steps.start)
        look = _make_look(run, model, folder)
        try:
            with feed(partial(_batch, run), steps) as batches:
                for step, inputs, targets, waited_s in batches:
                    state, metrics = recorder(train_step, state, inputs, targets)
                    journal.add(step + 1, metrics, waited_s)
                    if recorder.complete:
                        journal.settle()
                        recorder.show(train_step, state)
                        journal.restart_clock()
                    if _due(step + 1, config.eval.every, config.train.steps):
                        journal.settle(partial(look, state))
                    if _due(step + 1, config.checkpoint.every, config.train.steps):
                        journal.settle()
                        journal.check(step + 1, {"the norm of the parameters": float(optax.tree.norm(state.params))})
                        checkpoints.save(state)
                        journal.restart_clock()
                    journal.settle_done()
        finally:
            journal.close()
    return state


def _batch(run: Prepared, step: int) -> tuple[Ids, Ids]:
    config = run.config.train
    return batch(run.train_ids, run.model.context_length, config.batch_size, config.seed, step)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _make_look(run: Prepared, model: GPT, folder: RunFolder) -> Callable[[TrainState], dict[str, float]]:
    """A function that measures the val_loss of a state and appends a sample to samples.txt."""
    evaluate = evaluator(model, run.config)

    def look(state: TrainState) -> dict[str, float]:
        loss = evaluate(state.params, run.validation_ids)
        if math.isfinite(loss):
            text = sample_text(
                model,
                state.params,
                run.tokenizer,
                run.config.eval,
                run.first_id,
                run.config.train.seed,
            )
            with folder.samples.open("a", encoding="utf-8") as file:
                file.write(f"{SAMPLE}{int(state.step)}, validation loss {loss:.4f}\n{text}\n\n")
        return {"val_loss": loss}

    return look


class Journal:
    """Metrics of steps on their way from the device: each is fetched after the next step is dispatched."""

    def __init__(self, run: Prepared, folder: RunFolder, done: int) -> None:
        self._folder = folder
        self._tokens_per_step = run.config.train.batch_size * run.model.context_length
        self._file = MetricsFile(folder.metrics, done)
        self._before = self._file.records[-1]["elapsed_s"] if self._file.records else 0.0
        self._progress = progress(run.config.train.steps, done)
        self._pending: tuple[int, Metrics, float] | None = None
        self._start = self._clock = time.perf_counter()

    def add(self, step: int, metrics: Metrics, data_wait_s: float) -> None:
        """Take the metrics of a step just dispatched, and how long its batch was waited for; settle the step before."""
        self.settle()
        self._pending = (step, metrics, data_wait_s)

    def settle(self, measure: Callable[[], dict[str, float]] = dict) -> None:
        """Fetch and write what is pending, together with what `measure` then measures."""
        if self._pending is None:
            return
        (step, metrics, data_wait_s), self._pending = self._pending, None
        values = {name: float(value) for name, value in metrics.items()}
        now = time.perf_counter()
        record: Record = {
            "step": step,
            "tokens": step * self._tokens_per_step,
            "elapsed_s": round(self._before + now - self._start, 4),
            **values,
            "tokens_per_s": round(self._tokens_per_step / (now - self._clock), 1),
            "data_wait_s": round(data_wait_s, 6),
        }
        self.check(step, values)
        measured = measure()
        self.check(step, measured)
        self._file.write(record | measured)
        self._progress.step(record | measured)
        self._clock = time.perf_counter() if measured else now

    def settle_done(self) -> None:
        """Settle what need not be waited for: on a CPU a step is done when its call returns (`train.startup`)."""
        if self._pending and all(cast(Any, value).is_ready() for value in self._pending[1].values()):
            self.settle()

    def restart_clock(self) -> None:
        """Leave the time since the last step out of the next step's speed."""
        self._clock = time.perf_counter()

    def check(self, step: int, values: dict[str, float]) -> None:
        """Raises DivergedError for a value that is not finite."""
        for name, value in values.items():
            if not math.isfinite(value):
                raise DivergedError(
                    f"{name} is {value} at step {step}: the run has diverged; lower optimizer.learning_rate or raise "
                    f"optimizer.warmup_steps and start again (what {self._folder.checkpoints} holds is from before)."
                )

    def close(self) -> None:
        """Draw the losses, also after an interruption."""
        self._progress.close()
        self._file.close()
        draw_losses(self._file.records, self._folder.loss_picture)
