"""How long a run trains: `train.steps` or `train.seconds`, whichever is done first, and the schedule over that.

A step is a function of (state, batch, step of the schedule). With a time limit steps of the schedule are left out, so
that it ends when the time does. How many it is ahead of the run is an argument of the compiled step. Which step of the
schedule each step took is in metrics.jsonl, beside the seconds used, and a resumed run goes on from there.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxllm.fast import on_mesh
from jaxllm.gpt import GPT

from .config import RunConfig, TrainConfig
from .optimizer import learning_rate_schedule, optimizer_with
from .state import TrainState
from .step import Metrics, compiler_options, step_function
from .tune.kinds import objective_of
from .tune.partition import partition_of

MEASURED = 10  # steps of a process after which it says how many will fit
Records = Sequence[dict[str, Any]]  # of metrics.jsonl, from step 1 on


def used_s(records: Records) -> float:
    """The seconds of training up to the last record; of a run without a time limit, all its seconds."""
    if not records:
        return 0.0
    return float(records[-1]["train_s" if "train_s" in records[-1] else "elapsed_s"])


def is_over(config: TrainConfig, step: int, seconds: float) -> bool:
    """Whether a run that has done `step` steps in that time has all that the config gives it."""
    return step >= config.steps or (config.seconds is not None and seconds >= config.seconds)


def schedule_step(config: RunConfig, step: int, records: Records) -> int:
    """The step of the schedule for step `step`, both from 0, after the steps recorded so far.

    The warm-up takes its steps. The rest of the schedule is spread over the rest of the time, if that ends before the
    steps do.
    """
    train, warmup = config.train, config.optimizer.warmup_steps
    if train.seconds is None or step < warmup:
        return step
    warmed_up_s = used_s(records[: min(warmup, len(records))])
    share = (used_s(records) - warmed_up_s) / max(train.seconds - warmed_up_s, 1e-9)
    return max(step, min(warmup + int(share * (train.steps - warmup)), train.steps - 1))


def make_budgeted_step(
    model: GPT, config: RunConfig, mesh: Mesh | None = None
) -> Callable[..., tuple[TrainState, Metrics]]:
    """The jitted step of `make_train_step` with one more argument: the steps that the schedule is ahead, int32 []."""
    schedule = learning_rate_schedule(config.optimizer, config.train.steps)

    def train_step(state: TrainState, inputs: Array, targets: Array, ahead: Array) -> tuple[TrainState, Metrics]:
        def later(step: ArrayLike) -> Array:
            return cast(Array, schedule(step + ahead))

        optimizer = optimizer_with(config.optimizer, later, model.config.width_ratio)
        return step_function(model, optimizer, config.train, later, objective_of(config), partition_of(config))(
            state, inputs, targets
        )

    on_devices = on_mesh.traced_on(mesh, train_step)
    return jax.jit(on_devices, donate_argnums=0, compiler_options=compiler_options(model.dtype))


def forecast(config: RunConfig, records: Records) -> str:
    """A line on how many steps will fit, from the last steps recorded; the first of a process is not counted."""
    train, last = config.train, records[-MEASURED:]
    step_s = max((used_s(last) - used_s(last[:1])) / (len(last) - 1), 1e-9)
    fit = last[-1]["step"] + int(max(cast(float, train.seconds) - used_s(records), 0) / step_s)
    line = f"a step takes {step_s:.3g} s: about {fit:,} steps will fit into train.seconds = {train.seconds:g}"
    if fit <= config.optimizer.warmup_steps:
        return f"{line}, no more than optimizer.warmup_steps = {config.optimizer.warmup_steps:,}: give it more time"
    if fit >= train.steps:
        return f"{line}, so train.steps = {train.steps:,} will end the run"
    return line


def last_line(config: RunConfig, step: int) -> str:
    """A line on what ended training after `step` steps, and what is left to do."""
    train, warmup = config.train, config.optimizer.warmup_steps
    if step >= train.steps:
        return f"train.steps = {train.steps:,} are done; evaluating and saving are left"
    early = f", within the {warmup:,} of the warm-up: give it more time" if step <= warmup else ""
    return f"train.seconds = {train.seconds:g} are used up after {step:,} steps{early}; evaluating and saving are left"
