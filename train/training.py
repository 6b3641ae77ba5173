"""What `jaxllm train` gives, for a loop of one's own: exact resume, checkpoints, the non-finite guard, metrics.

A `Run` keeps a folder. The loop asks it for the state to begin with and for batches, and hands it each step's state and
metrics. The state is a NamedTuple with a field `step`, such as `TrainState`; everything that changes belongs in it, and
batches and keys are functions of the step. Then a run that was killed goes on to the bits of one that was not.
"""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError

from .errors import DivergedError
from .loop import save_state
from .prefetch import prefetched
from .progress import training_progress
from .runs.checkpoint import Checkpoints
from .runs.folder import RunFolder
from .runs.sinks import Guarded, check_sink
from .runs.step_log import Plan, StepLog, StepMetrics
from .runtime.signals import stoppable
from .state import TrainState
from .step import Metrics, apply_gradients

__all__ = ["DivergedError", "Run", "TrainState", "begin", "update"]

State = TypeVar("State", bound=Any)


def begin(optimizer: optax.GradientTransformation, params: Any) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def update(
    optimizer: optax.GradientTransformation, state: TrainState, loss: Array, grads: Any
) -> tuple[TrainState, Metrics]:
    """The state after a step, and its metrics: train_loss, grad_norm, and which gradient is not finite (-1: none).

    Where the loss or the gradient is not finite, only the step is counted. To be called within the jitted step.
    """
    leaves = [optax.tree.norm(leaf) for leaf in jax.tree.leaves(grads)]
    wrong = ~jnp.isfinite(jnp.stack(leaves))
    finite = jnp.isfinite(loss) & ~wrong.any()
    params, opt_state, _ = apply_gradients(optimizer, grads, state, finite)
    metrics = {
        "train_loss": loss,
        "grad_norm": optax.tree.norm(grads),
        "not_finite": jnp.where(finite, -1, wrong.argmax()),
    }
    return TrainState(state.step + 1, params, opt_state), metrics


class Run:
    """A folder with the metrics, the losses' picture and the checkpoints of a loop; a context manager.

    Within it the first SIGINT or SIGTERM ends the loop after its step, which is saved.
    """

    def __init__(
        self, folder: str | Path, steps: int, tokens_per_step: int, *, save_every: int = 500, keep: int = 2,
        keep_best: int = 0, max_skipped: int = 0, sink: str | None = None, config: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """A run of `steps` steps, whose checkpoints are those of `train.runs.checkpoint.Checkpoints`.

        Up to `max_skipped` steps may have a non-finite loss or gradient. `sink` is as `train.sink`, which is shown the
        `config`. Raises InputError if the folder holds a run of `jaxllm train`, or if the sink's package is missing.
        """
        self.folder = RunFolder(folder)
        if self.folder.config.exists():
            raise InputError(f"{folder} holds a run of `jaxllm train`; choose another folder for a loop of your own.")
        check_sink(sink)
        self._plan = Plan(steps, tokens_per_step, max_skipped, "lower the learning rate", "max_skipped")
        self._save_every, self._sink, self._config = save_every, sink, config or {}
        self._ending = False
        by = "this program; undo its change of the model, or choose another folder"
        self._checkpoints = Checkpoints(self.folder.checkpoints, keep, keep_best, by)

    def __enter__(self) -> Self:
        """Raises InputError if another process trains in the folder."""
        with ExitStack() as stack:
            stack.enter_context(self.folder.locked())
            self._stop = stack.enter_context(stoppable())
            stack.enter_context(self._checkpoints)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Raises SystemExit with 128 + the signal's number if a signal ended the loop before its last step."""
        self._stack.__exit__(*error)
        if self._stop.by and error[0] is None and self._step < self._plan.steps:
            print(f"{self._stop.by.name} ended the run after step {self._step:,}, which is saved", file=sys.stderr)
            raise SystemExit(128 + self._stop.by)

    def restore(self, first: State) -> State:
        """The state of the newest checkpoint, or `first` if there is none. Records beyond it are dropped.

        Raises InputError if the shapes of `first` are others than those saved, DamagedError if bytes have changed.
        """
        saved = self._checkpoints.latest_step() is not None
        state = cast(State, self._checkpoints.restore(first) if saved else first)
        self._step = int(state.step)
        self._names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state.params)]
        sink = Guarded(self._sink, self.folder, self._config, self._step)
        self._log = StepLog(self._plan, self.folder, self._step, self._explain, training_progress, sink)
        self._stack.callback(self._log.close)
        self._stack.push(lambda kind, *_: None if kind else self._log.flush())
        return state

    def batches(self, make_batch: Callable[[int], tuple[Ids, Ids]]) -> Iterator[tuple[int, Array, Array]]:
        """Each step that is left, from 0, with its batch `make_batch(step)`, which a thread prepares ahead.

        After each, `record` must be called. Ends after a step in which a signal arrived.
        """
        self._log.restart_clock()
        with prefetched(make_batch, range(self._step, self._plan.steps)) as batches:
            for step, inputs, targets, self._waited_s in batches:
                yield step, inputs, targets
                if self._ending:
                    return

    def record(self, state: State, metrics: StepMetrics, **measured: float) -> None:
        """Record a step's metrics and what was measured after it, such as val_loss; save the state where that is due.

        The metrics are scalars on the device; they are fetched after the next step is dispatched. `train_loss` must be
        among them. Raises DivergedError for a non-finite loss or gradient, or one too many.
        """
        self._step += 1
        if "not_finite" not in metrics:
            metrics = {**metrics, "not_finite": jnp.where(jnp.isfinite(metrics["train_loss"]), -1, 0)}
        self._log.add(self._step, metrics, self._waited_s)
        if measured:
            self._log.flush(lambda: measured)
        self._ending = bool(self._stop)
        if self._ending or self._step % self._save_every == 0 or self._step == self._plan.steps:
            self.save(state)
        self._log.flush_if_ready()

    def save(self, state: State) -> None:
        """Save the state, of the last step recorded, now; `record` saves where it is due, and after the last step."""
        save_state(state, self._checkpoints, self._log, self._config, tokenizer="")

    def _explain(self, step: int, metrics: StepMetrics) -> str:
        loss = float(metrics["train_loss"])
        if not math.isfinite(loss):
            return f"train_loss is {loss} at step {step:,}"
        return f"the gradient of {self._names[int(metrics['not_finite'])]} is not finite at step {step:,}"
