"""The training loop: dispatch a step, then read the metrics of the one before, so that an accelerator never waits.

`train.step` computes a step, `train.progress` shows it, `train.runs` keeps it. A run may end after any step: what it
saves then, and what its files hold, is what a run without the interruption had at that step.
"""

import math
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxllm.data import batch
from jaxllm.data.windows import Ids
from jaxllm.gpt import GPT
from jaxllm.lora import merge

from .budget import MEASURED, forecast, is_over, last_line, make_budgeted_step, schedule_step
from .config import RunConfig, row_length, tokens_of_step
from .config_file import as_dict
from .errors import NotSavedError, Stopped
from .eval_weights import eval_weights
from .evaluate import Abandoned, evaluator, sample_text
from .ideas import references
from .inputs import Prepared
from .memory_estimate import warning_of_plan
from .nonfinite import first_forward, parts_backward
from .optimizer import learning_rate_schedule, make_optimizer
from .parallel.agreement import Agreement, agreement
from .parallel.layout import layout_of, make_mesh
from .parallel.placing import on_one_device, parts_of_rows, shapes_of_batch
from .prefetch import prefetched
from .progress import training_progress
from .runs.checkpoint import Checkpoints, saved_steps
from .runs.checkpoints_of_all import checkpoints_of
from .runs.folder import RunFolder
from .runs.metrics import add_sample, drop_samples
from .runs.sinks import Guarded
from .runs.step_log import Plan, StepLog, StepMetrics
from .runtime.profile import profiled
from .runtime.signals import stoppable
from .state import TrainState, init_and_compile
from .step import make_model, make_train_step
from .tune.beginning import first_state_on, frozen_on
from .tune.kinds import objective_of
from .tune.measures import examples_measure
from .tune.partition import Partition, joined, partition_of
from .tune.referenced import referenced

norm = jax.jit(optax.tree.norm)  # else a program for each operation and shape


def train(run: Prepared, folder: RunFolder, profile: int | None = None) -> TrainState:
    """Train from the newest checkpoint of the folder, or from the start, to the last step; returns the last state.

    The last step is `train.steps`, or that in which `train.seconds` are used up; it is evaluated and saved then.
    Writes metrics.jsonl, loss.png, samples.txt and checkpoints, and prints where the time of `profile` steps goes.
    Raises DivergedError where a loss, a gradient or a parameter is not finite (no checkpoint ever holds such
    parameters); NotSavedError where the last checkpoint could not be written; Stopped when a signal ended the run.
    """
    run = referenced(run, folder.path)
    config, mesh, parts = run.config, make_mesh(layout_of(run.config, run.model)), partition_of(run.config)
    model = make_model(run.model, config.train, mesh)
    timed = config.train.seconds is not None
    optimizer = make_optimizer(config.optimizer, config.train.steps, run.model.width_ratio)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    with (
        stoppable() as here,
        profiled(profile, folder.profile) as recorder,
        checkpoints_of(folder.checkpoints, config.checkpoint.keep, config.checkpoint.keep_best) as checkpoints,
    ):
        restore = beginning(run, optimizer, parts, checkpoints)
        jitted = (
            make_budgeted_step(model, config, mesh) if timed
            else make_train_step(model, optimizer, config.train, schedule, mesh, objective_of(config), parts)
        )  # fmt: skip
        state, train_step = init_and_compile(
            model, optimizer, jitted, config.train, restore, mesh, parts, batch_shapes(run, mesh)
        )
        agreed = agreement(here)  # all have compiled
        stop = agreed.stop
        if too_much := warning_of_plan(train_step, config, run.model):
            print(f"warning: {too_much}", file=sys.stderr)
        steps = range(int(state.step), config.train.steps)
        explain = partial(where_not_finite, run, model, lambda: state)
        sink = Guarded(config.train.sink if jax.process_index() == 0 else None, folder, as_dict(config), steps.start)
        log = StepLog(plan_of(config), folder, steps.start, explain, training_progress, sink)
        over = is_over(config.train, steps.start, log.trained_s)
        unmeasured = log.unmeasured(steps.start) and due(steps.start, config.eval.every, over)
        try:
            folder.write_config(config)  # only after everything saved has been read
            drop_samples(folder.samples, steps.start - unmeasured)
            measure = make_measure(run, model, agreed, mesh)
            sample = partial(write_sample, run, make_model(run.model, config.train), folder)  # by one device
            if unmeasured:  # the evaluation was abandoned when the run was stopped
                sample(state, measured := measure(state))  # first, because a complete record says that it is there
                log.complete(measured)
                checkpoints.add_losses(steps.start, measured)
            draw = partial(rows_of, run, parts_of_rows(mesh))
            with prefetched(draw, range(0) if stop or over else steps, mesh) as batches:
                for step, inputs, targets, waited_s in batches:
                    n_before = len(log.records)
                    of_schedule = schedule_step(config, step, log.records)
                    of_schedule = max(step, agreed.schedule_step(of_schedule)) if timed else step
                    ahead = (np.int32(of_schedule - step),) if timed else ()
                    state, metrics = recorder(train_step, state, inputs, targets, *ahead)
                    log.add(step + 1, metrics, waited_s, of_schedule + 1 if timed else None)
                    over = is_over(config.train, step + 1, agreed.seconds(log.trained_s))
                    if timed and over:
                        log.note(last_line(config, step + 1))
                    if due(step + 1, config.eval.every, over):
                        log.flush(partial(measure, state))
                        sample(state, log.last)  # once the loss is recorded, because compiling it takes seconds
                        log.restart_clock()
                    if recorder.complete:
                        log.flush()
                        recorder.show(train_step, state)
                        log.restart_clock()
                    ending = bool(stop)
                    if ending or due(step + 1, config.checkpoint.every, over):
                        save_state(state, checkpoints, log, as_dict(config), run.tokenizer.fingerprint())
                    if agreed.by_one:  # not every process sees at the same point that a step is computed
                        log.flush_if_ready()
                    if timed and not over and n_before < steps.start + MEASURED <= len(log.records):
                        log.note(forecast(config, log.records))
                    if ending or over:
                        break
        except OSError as error:
            if error.filename is None:  # standard output, not a file of the run
                raise
            raise NotSavedError(
                f"{error.filename}: {error.strerror or error}; {how_to_resume(folder, config)}"
            ) from None
        finally:
            log.close()
    done = int(state.step)
    if stop.by and (not over or log.unmeasured(done)):
        raise Stopped(
            f"{stop.by.name} ended the run after step {done:,} of {config.train.steps:,}; "
            f"{how_to_resume(folder, config)}",
            stop.by,
        )
    return state


def beginning(
    run: Prepared, optimizer: optax.GradientTransformation, parts: Partition | None, checkpoints: Checkpoints
) -> Callable[[TrainState], TrainState] | None:
    """What returns the state to begin with, for the shapes of one; None for new parameters.

    It is that of the newest checkpoint, beside the frozen parameters of the base, or begins from the base.
    """
    saved = checkpoints.latest_step() is not None
    if run.base is None:
        return checkpoints.restore if saved else None
    base = run.base

    def begin(like: TrainState) -> TrainState:
        if saved:
            frozen = frozen_on(base, run.config, run.model, parts)
            return checkpoints.restore(like)._replace(frozen=jax.tree.map(put, frozen, like.frozen))
        return jax.tree.map(put, first_state_on(base, run.config, run.model, optimizer, parts), like)

    def put(x: Any, like: Any) -> Any:
        return jax.device_put(x, like.sharding)

    return begin


def batch_shapes(run: Prepared, mesh: Mesh | None) -> Any:
    """Shapes of the inputs and targets of a step; None for tokens [B, T] each."""
    if run.examples is None:
        return None
    return shapes_of_batch(mesh, *rows_of(run, parts_of_rows(mesh), 0))


def plan_of(config: RunConfig) -> Plan:
    """What the log of a run needs to know of it."""
    train = config.train
    return Plan(train.steps, tokens_of_step(config, config.model), train.max_skipped)


def how_to_resume(folder: RunFolder, config: RunConfig) -> str:
    steps = saved_steps(folder.checkpoints)
    saved = f"step {steps[-1]:,} is saved" if steps else "nothing is saved yet"
    code = next((f" --code {idea.name.partition(':')[0]}" for *_, idea in references(config)), "")
    return f"{saved}; to go on: jaxllm train --out {shlex.quote(str(folder.path))} --resume{code}"


def save_state(
    state: TrainState, checkpoints: Checkpoints, log: StepLog, config: Mapping[str, Any], tokenizer: str
) -> None:  # fmt: skip
    """Record what is pending, and write the state with the loss that was measured for it.

    Raises DivergedError if a parameter is not finite.
    """
    log.flush()
    log.check(int(state.step), {"the norm of the parameters": float(norm(state.params))})
    log.sync()
    checkpoints.save(state, config, tokenizer, log.last.get("val_loss"))
    log.restart_clock()


def where_not_finite(
    run: Prepared, model: GPT, state: Callable[[], TrainState], step: int, metrics: StepMetrics
) -> str:
    """Which number of a step was not finite, and where that began.

    For a loss the forward pass is computed again: the step has not been applied, so the parameters are those it saw.
    On an accelerator, which is a step ahead, the next step may have been applied to them.
    """
    loss, norm = float(metrics["train_loss"]), float(metrics["grad_norm"])
    params = on_one_device(state().params)  # those that change
    if math.isfinite(loss):
        part = parts_backward(params)[int(metrics["not_finite"])]
        return f"the norm of the gradient is {norm} at step {step:,}, coming backward first in {part}"
    tokens = jax.numpy.asarray(batch_of(run, step - 1)[0])
    whole = on_one_device(joined(partition_of(run.config), state()))
    first = first_forward(model.clone(block=None), whole, tokens.reshape(-1, tokens.shape[-1]))
    return f"train_loss is {loss} at step {step:,}" + (f", first of all {first} is not finite" if first else "")


def batch_of(run: Prepared, step: int, part: tuple[int, int] = (0, 1)) -> tuple[Ids, Any]:
    """The batch of a step, or the part of it with this number, of so many."""
    config = run.config.train
    draw = run.draw or batch
    return draw(run.train_ids, row_length(run.model, config), config.batch_size, config.seed, step, *part)


def rows_of(run: Prepared, parts: tuple[list[int], int], step: int) -> tuple[Ids, Ids]:
    """The `parts` of the batch of a step, by their numbers, of so many."""
    drawn = [batch_of(run, step, (i, parts[1])) for i in parts[0]]
    return cast(Any, jax.tree.map(lambda *of_parts: np.concatenate(of_parts), *drawn))


def due(step: int, every: int, last: bool) -> bool:
    return step % every == 0 or last


def make_measure(
    run: Prepared, model: GPT, agreed: Agreement, mesh: Mesh | None = None
) -> Callable[[TrainState], dict[str, float]]:
    """A function that returns the losses of a state, {} once it is agreed to stop.

    They are val_loss and, where `eval.weights` are others than the parameters, theirs as averaged_val_loss.
    """
    averaged, parts = eval_weights(run.config), partition_of(run.config)
    if run.examples:
        return examples_measure(run, model, agreed.is_ending, mesh)
    evaluate = evaluator(model, run.config, agreed.is_ending, mesh=mesh)

    def measure(state: TrainState) -> dict[str, float]:
        try:
            losses = {"val_loss": evaluate(joined(parts, state), run.validation_ids)}
            if averaged:
                losses["averaged_val_loss"] = evaluate(
                    joined(parts, state._replace(params=averaged(state))), run.validation_ids
                )
        except Abandoned:
            return {}
        return losses

    return measure


def write_sample(run: Prepared, model: GPT, folder: RunFolder, state: TrainState, losses: Mapping[str, float]) -> None:
    """Append a sample of the state's text to samples.txt, with the loss of the weights that write it, if measured."""
    averaged = eval_weights(run.config)
    loss = losses.get("averaged_val_loss" if averaged else "val_loss", math.nan)
    if math.isfinite(loss) and not run.model.n_classes:
        state = state._replace(params=averaged(state)) if averaged else state
        params, c = on_one_device(joined(partition_of(run.config), state)), run.config
        if jax.process_index() != 0:
            return
        text = (run.write or sample_text)(model, merge(params), run.tokenizer, c.eval, run.first_id, c.train.seed)
        add_sample(folder.samples, int(state.step), loss, text)
