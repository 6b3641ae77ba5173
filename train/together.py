"""Several runs trained by one compiled step: runs whose configs differ only in numbers that can be traced.

The step goes through the runs in a loop of its own: one program, compiled once, steps one run after the other. Each
run's arrays have the shapes that they have alone, and only one run's activations are in memory at a time. The numbers
in which the runs differ are arguments of the program. Otherwise each run leaves what `train.loop.train` leaves.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm.data.windows import Ids
from jaxllm.gpt import GPT

from .config import RunConfig, row_length
from .config_file import as_dict
from .errors import DivergedError, NotSavedError, Stopped, reason
from .inputs import Prepared
from .loop import batch_of, due, make_measure, plan_of, save_state, where_not_finite, write_sample
from .memory_estimate import estimate
from .optimizer import learning_rate_schedule, make_optimizer
from .parallel.agreement import Agreement
from .prefetch import prefetched
from .progress import record_line
from .runs.checkpoint import Checkpoints
from .runs.folder import RunFolder
from .runs.metrics import Record, drop_samples
from .runs.sinks import Guarded
from .runs.step_log import StepLog
from .runtime.memory import available_bytes
from .runtime.signals import Stop, stoppable
from .state import TrainState, first_state
from .step import Metrics, compiler_options, make_model, step_function

TRACED = (
    "train.seed", "optimizer.learning_rate", "optimizer.min_learning_rate", "optimizer.beta1", "optimizer.beta2",
    "optimizer.weight_decay", "optimizer.clip_norm",
)  # fmt: skip
SHARE = 0.8  # of the free memory, for the states of runs that are trained together

Numbers = dict[str, Any]  # by the field, an array with a number for each run; within the step, one number


class NotTraceableError(Exception):
    """A function cannot take tracers for the numbers of a config, so each run needs a program of its own."""


@dataclass(frozen=True)
class Member:
    """One of the runs: its name, what it needs, and where it leaves its files."""

    name: str
    run: Prepared
    folder: RunFolder


def alike(config: RunConfig) -> str:
    """What must be equal in two runs that are trained together: all fields but those that can be traced."""
    fields = {f"{section}.{key}": value for section, of in as_dict(config).items() for key, value in of.items()}
    return repr({name: value for name, value in fields.items() if name not in TRACED})


def most_together(run: Prepared) -> int:
    """How many runs like this one fit into the free memory together; at least 1."""
    free, need = available_bytes(), estimate(run.model, run.config.train, run.config.optimizer)
    if free is None:
        return 2**31
    return max(1, int((SHARE * free - need.activations) // (need.state + need.checkpoint)))


def numbers_of(configs: Sequence[RunConfig]) -> Numbers:
    """The numbers in which the configs differ, an array for each field. All others stay constants of the program."""
    flat = [{f"{s}.{k}": value for s, of in as_dict(config).items() for k, value in of.items()} for config in configs]
    values = {name: [of_run[name] for of_run in flat] for name in TRACED}
    return {
        name: np.asarray(of_field, np.int32 if name == "train.seed" else np.float32)
        for name, of_field in values.items()
        if len(set(of_field)) > 1
    }


def with_numbers(config: RunConfig, numbers: Mapping[str, Array]) -> RunConfig:
    """The config with tracers for these numbers, unchecked: each run's own values have been checked before.

    A section without such a number stays what it is.
    """

    def section(name: str) -> Any:
        own = {field.partition(".")[2]: x for field, x in numbers.items() if field.partition(".")[0] == name}
        return SimpleNamespace(**vars(getattr(config, name)) | own) if own else getattr(config, name)

    return cast(RunConfig, SimpleNamespace(train=section("train"), optimizer=section("optimizer")))


def make_step(model: GPT, config: RunConfig) -> Any:
    """The jitted step (numbers, states, inputs, targets [N, B, T]) -> (states, metrics), each with an axis of N runs.

    It donates the buffers of the states.
    """

    def of_one(states: TrainState, of_run: tuple[Array, Numbers, Array, Array]) -> tuple[TrainState, Metrics]:
        i, numbers, inputs, targets = of_run
        own = with_numbers(config, numbers)
        optimizer = make_optimizer(own.optimizer, config.train.steps, model.config.width_ratio)
        schedule = learning_rate_schedule(own.optimizer, config.train.steps)
        step = step_function(model, optimizer, own.train, schedule)
        state, metrics = step(jax.tree.map(lambda x: x[i], states), inputs, targets)
        return jax.tree.map(lambda all_runs, x: all_runs.at[i].set(x), states, state), metrics  # in place

    def of_all(numbers: Numbers, states: TrainState, inputs: Array, targets: Array) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(of_one, states, (jnp.arange(len(inputs)), numbers, inputs, targets))

    return jax.jit(of_all, donate_argnums=1, compiler_options=compiler_options(model.dtype))


def first_states(
    model: GPT, configs: Sequence[RunConfig], numbers: Numbers, checkpoints: Sequence[Checkpoints]
) -> TrainState:
    """The states that the runs begin or go on with, stacked: each array has a first axis of N runs.

    An optimizer may keep its numbers in its state, so each run's are its own. Raises NotTraceableError.
    """
    config, of_runs = configs[0], [jax.tree.map(lambda x, i=i: x[i], numbers) for i in range(len(configs))]

    def of_one(own_numbers: Numbers) -> TrainState:
        own = with_numbers(config, own_numbers)
        return first_state(
            model,
            make_optimizer(own.optimizer, config.train.steps, model.config.width_ratio),
            jax.random.key(own.train.seed),
        )

    with traced():
        traced_once = jax.jit(of_one).trace(of_runs[0])
    if checkpoints[0].latest_step() is None:
        initialize = traced_once.lower().compile()
        states = [initialize(own_numbers) for own_numbers in of_runs]
    else:
        states = [each.restore(traced_once.out_info) for each in checkpoints]
    return cast(TrainState, _stack(*states))


def compile_step(step: Any, numbers: Numbers, states: TrainState, config: RunConfig) -> Any:
    """The compiled step. Raises NotTraceableError."""
    shape = (states.step.shape[0], config.train.batch_size, row_length(config.model, config.train))
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    with traced():
        lowered = step.lower(numbers, states, tokens, tokens)
    return lowered.compile()


@contextmanager
def traced() -> Iterator[None]:
    """Turn an error from a function that cannot take tracers into a NotTraceableError.

    What is wrong without tracers too is an error again where the runs are trained one after the other.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        raise NotTraceableError(reason(error)) from None


def train_together(members: Sequence[Member]) -> dict[str, DivergedError]:
    """Train runs that are `alike` and stand at the same step, to their last; returns the errors of those that diverged.

    Such a run ends; the others go on. Raises NotTraceableError before any file is written; NotSavedError; Stopped when
    a signal ended the runs, after they were saved.
    """
    configs = [member.run.config for member in members]
    config, model = configs[0], make_model(members[0].run.model, configs[0].train)
    with ExitStack() as stack:
        stop = stack.enter_context(stoppable())
        keep = config.checkpoint.keep, config.checkpoint.keep_best
        checkpoints = [stack.enter_context(Checkpoints(m.folder.checkpoints, *keep)) for m in members]
        numbers = numbers_of(configs)
        states = first_states(model, configs, numbers, checkpoints)
        train_step = compile_step(make_step(model, config), numbers, states, config)

        def state_of(i: int) -> TrainState:
            return cast(TrainState, _take(states, i))

        done = int(states.step[0])
        all_runs = [
            _Training(member, checkpoints[i], model, stop, done, partial(state_of, i))
            for i, member in enumerate(members)
        ]
        for run in all_runs:
            stack.callback(run.log.close)
        try:
            for run in all_runs:
                run.attempt(run.begin, done)
            steps = range(done, config.train.steps) if not stop else range(0)
            for step, inputs, targets, waited_s in stack.enter_context(prefetched(partial(_batches, members), steps)):
                states, computed = train_step(numbers, states, inputs, targets)
                metrics, ending = jax.device_get(computed), bool(stop)
                for i, run in enumerate(all_runs):
                    run.attempt(run.record, step + 1, {name: x[i] for name, x in metrics.items()}, waited_s)
                for run in all_runs:
                    run.attempt(run.measure_and_save, step + 1, ending)
                for run in all_runs:  # none of it is part of the next step
                    run.log.restart_clock()
                if ending or all(run.error for run in all_runs):
                    break
        except OSError as error:
            if error.filename is None:  # standard output, not a file of a run
                raise
            raise NotSavedError(f"{error.filename}: {reason(error)}; repeat the command to go on") from None
    done, last = int(states.step[0]), config.train.steps
    going_on = [run for run in all_runs if not run.error]
    if stop.by and going_on and (done < last or any(run.log.unmeasured(done) for run in going_on)):
        raise Stopped(f"{stop.by.name} ended {len(going_on)} runs after step {done:,} of {last:,}", stop.by)
    return {run.name: run.error for run in all_runs if run.error}


class _Training:
    """A run while it is trained beside others: what it records and saves, and the error that ended it."""

    error: DivergedError | None = None

    def __init__(
        self, member: Member, checkpoints: Checkpoints, model: GPT, stop: Stop, done: int,
        state: Callable[[], TrainState],
    ) -> None:  # fmt: skip
        """`state()` is the run's state after the last step."""
        self.name, self._run, self._folder = member.name, member.run, member.folder
        self._checkpoints, self._state = checkpoints, state
        explain = partial(where_not_finite, member.run, model, state)
        config = member.run.config
        sink = Guarded(config.train.sink, member.folder, as_dict(config), done)
        self.log = StepLog(plan_of(config), member.folder, done, explain, partial(_Lines, member.name), sink)
        self._measure = make_measure(member.run, model, Agreement(stop))
        self._sample = partial(write_sample, member.run, model, member.folder)

    def attempt(self, work: Callable[..., None], *arguments: Any) -> None:
        """Do some work for the run unless it has diverged. If it does now, print the error and keep it."""
        if self.error:
            return
        try:
            work(*arguments)
        except DivergedError as error:
            self.error = error
            print(f"{self.name}: {error}", flush=True)

    def begin(self, done: int) -> None:
        """Bring the files to the step that the run goes on from."""
        unmeasured = self.log.unmeasured(done) and self._due(done, self._run.config.eval.every)
        self._folder.write_config(self._run.config)
        drop_samples(self._folder.samples, done - unmeasured)
        if unmeasured:  # the evaluation was abandoned when the run was stopped
            self._sample(self._state(), measured := self._measure(self._state()))
            self.log.complete(measured)
            self._checkpoints.add_losses(done, measured)

    def record(self, step: int, metrics: Metrics, waited_s: float) -> None:
        """Record the metrics of a step."""
        self.log.add(step, metrics, waited_s)
        self.log.flush()

    def measure_and_save(self, step: int, ending: bool) -> None:
        """Evaluate and save where that is due; where the run is `ending`, it is saved in any case."""
        if self._due(step, self._run.config.eval.every):
            measured = self._measure(self._state())
            self.log.check(step, measured)
            self.log.complete(measured)
            self._sample(self._state(), measured)
        if ending or self._due(step, self._run.config.checkpoint.every):
            tokenizer = self._run.tokenizer.fingerprint()
            save_state(self._state(), self._checkpoints, self.log, as_dict(self._run.config), tokenizer)

    def _due(self, step: int, every: int) -> bool:
        return due(step, every, step == self._run.config.train.steps)


@jax.jit  # one program for all arrays and all runs
def _take(states: TrainState, i: int) -> Any:
    return jax.tree.map(lambda x: x[i], states)


@jax.jit
def _stack(*states: TrainState) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def _batches(members: Sequence[Member], step: int) -> tuple[Ids, Ids]:
    inputs, targets = zip(*(batch_of(member.run, step) for member in members), strict=True)
    return np.stack(inputs), np.stack(targets)


class _Lines:
    """The display of one of several runs: a line for each evaluation, with the name of the run."""

    def __init__(self, name: str, steps: int, done: int) -> None:
        self._name = name

    def step(self, record: Record) -> None:
        """Print a record that has a validation loss."""
        if "val_loss" in record:
            self.note(record_line(record))

    def note(self, text: str) -> None:
        """Print a line."""
        print(f"{self._name}: {text}", flush=True)

    def close(self) -> None:
        """Nothing is left to do."""
