"""The training loop: dispatch a step, then look at the one before, so that an accelerator never waits.

nanodo's order of things; what a step computes is in `train.step`, what is shown in `train.progress`. A run may end
after any step: what it then saves, and what is in its files, is what a run without the interruption had at that step.
"""

import math
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import jax
import optax
from jax.stages import Compiled

from jaxllm.data import batch
from jaxllm.data.windows import Ids
from jaxllm.gpt import GPT, Block

from .errors import NotSavedError, Stopped
from .evaluate import Abandoned, evaluator, sample_text
from .inputs import Prepared
from .nonfinite import first_forward, parts_backward
from .prefetch import feed
from .progress import add_sample, drop_samples
from .runs.checkpoint import Checkpoints, saved_steps
from .runs.folder import RunFolder
from .runs.step_log import Journal
from .runtime.memory import Need, available_bytes, step_bytes, warning
from .runtime.profile import profiled
from .runtime.signals import Stop, stoppable
from .step import Metrics, TrainState, begin, learning_rate_schedule, make_model, make_optimizer


def train(run: Prepared, folder: RunFolder, profile: int | None = None) -> TrainState:
    """Train from the newest checkpoint of the folder, or from the start, to the last step.

    Leaves metrics.jsonl, loss.png, samples.txt and checkpoints, and prints where the time of `profile` steps goes.
    Raises DivergedError where a loss, a gradient or a parameter is not finite, and no checkpoint ever holds such
    parameters; NotSavedError where the last checkpoint could not be written; Stopped when a signal ended the run.
    """
    config, model = run.config, make_model(run.model, run.config.train)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)
    with (
        stoppable() as stop,
        profiled(profile, folder.profile) as recorder,
        Checkpoints(folder.checkpoints, config.checkpoint.keep, config.checkpoint.keep_best) as checkpoints,
    ):
        restore = None if checkpoints.latest_step() is None else checkpoints.restore
        state, train_step = begin(model, optimizer, config.train, schedule, restore)
        _warn_of_memory(run, train_step)
        steps = range(int(state.step), config.train.steps)
        journal = Journal(run, folder, steps.start, partial(_where, run, model, lambda: state))
        unmeasured = journal.unmeasured(steps.start) and _due(steps.start, config.eval.every, config.train.steps)
        try:
            folder.write_config(config)  # not before all that was saved has been read
            drop_samples(folder.samples, steps.start - unmeasured)
            look = _make_look(run, model, folder, stop)
            if unmeasured:  # the evaluation was abandoned when the run was stopped
                journal.complete(measured := look(state))
                checkpoints.add_losses(steps.start, measured)
            with feed(partial(_batch, run), steps if not stop else range(0)) as batches:
                for step, inputs, targets, waited_s in batches:
                    state, metrics = recorder(train_step, state, inputs, targets)
                    journal.add(step + 1, metrics, waited_s)
                    if recorder.complete:
                        journal.settle()
                        recorder.show(train_step, state)
                        journal.restart_clock()
                    if _due(step + 1, config.eval.every, config.train.steps):
                        journal.settle(partial(look, state))
                    ending = bool(stop)
                    if ending or _due(step + 1, config.checkpoint.every, config.train.steps):
                        _save(run, checkpoints, journal, state)
                    journal.settle_done()
                    if ending:
                        break
        except OSError as error:
            if error.filename is None:  # standard output, not a file of the run
                raise
            raise NotSavedError(f"{error.filename}: {error.strerror or error}; {_go_on(folder)}") from None
        finally:
            journal.close()
    done = int(state.step)
    if stop.by and (done < config.train.steps or journal.unmeasured(done)):
        raise Stopped(
            f"{stop.by.name} ended the run after step {done:,} of {config.train.steps:,}; {_go_on(folder)}", stop.by
        )
    return state


def _warn_of_memory(run: Prepared, step: Compiled) -> None:
    """By XLA's own plan of the step, where the warning at the start was an estimate."""
    planned = step_bytes(step)
    if planned and (too_much := warning(Need(0, planned), available_bytes(), run.config, run.model)):
        print(f"warning: {too_much}", file=sys.stderr)


def _go_on(folder: RunFolder) -> str:
    steps = saved_steps(folder.checkpoints)
    saved = f"step {steps[-1]:,} is saved" if steps else "nothing is saved yet"
    return f"{saved}; to go on: jaxllm train --out {shlex.quote(str(folder.path))} --resume"


def _save(run: Prepared, checkpoints: Checkpoints, journal: Journal, state: TrainState) -> None:
    journal.settle()
    journal.check(int(state.step), {"the norm of the parameters": float(optax.tree.norm(state.params))})
    journal.sync()
    checkpoints.save(state, asdict(run.config), run.tokenizer.fingerprint(), journal.last.get("val_loss"))
    journal.restart_clock()


def _where(run: Prepared, model: GPT, state: Callable[[], TrainState], step: int, metrics: Metrics) -> str:
    """Which number of a step was not finite, and where that began.

    For a loss the forward is computed again: the step has not been applied, so the parameters are those it saw. On
    an accelerator, which is a step ahead, the next one may have been applied to them.
    """
    loss, norm = float(metrics["train_loss"]), float(metrics["grad_norm"])
    params = state().params
    if math.isfinite(loss):
        part = parts_backward(params)[int(metrics["not_finite"])]
        return f"the norm of the gradient is {norm} at step {step:,}, coming backward first in {part}"
    first = first_forward(model.clone(block=Block), params, jax.numpy.asarray(_batch(run, step - 1)[0]))
    return f"train_loss is {loss} at step {step:,}" + (f", first of all {first} is not finite" if first else "")


def _batch(run: Prepared, step: int) -> tuple[Ids, Ids]:
    config = run.config.train
    return batch(run.train_ids, run.model.context_length, config.batch_size, config.seed, step)


def _due(step: int, every: int, last: int) -> bool:
    return step % every == 0 or step == last


def _make_look(run: Prepared, model: GPT, folder: RunFolder, stop: Stop) -> Callable[[TrainState], dict[str, float]]:
    """A function that measures the val_loss of a state and appends a sample to samples.txt; nothing once stopped."""
    evaluate = evaluator(model, run.config, lambda: bool(stop))

    def look(state: TrainState) -> dict[str, float]:
        try:
            loss = evaluate(state.params, run.validation_ids)
        except Abandoned:
            return {}
        if math.isfinite(loss):
            text = sample_text(
                model,
                state.params,
                run.tokenizer,
                run.config.eval,
                run.first_id,
                run.config.train.seed,
            )
            add_sample(folder.samples, int(state.step), loss, text)
        return {"val_loss": loss}

    return look
