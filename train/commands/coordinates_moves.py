"""The coordinate check of muP: how large what a model computes is, and how far some steps move it, against the width.

In the maximal update parametrisation the moves do not depend on the width, which is why a learning rate transfers. In
the standard one they grow. Yang et al. 2022, appendix D.1.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.utils.errors import InputError

from ..config import RunConfig
from ..errors import DivergedError
from ..inputs import Prepared
from ..loop import batch_of
from ..optimizer import learning_rate_schedule, make_optimizer
from ..state import init_state
from ..step import make_model, make_train_step
from ..tune.kinds import check_plain

STANDARD, MUP = "standard", "muP"  # parametrisations
ACTIVATIONS = {"attention": "block_{}/attention", "mlp": "block_{}/mlp", "residual": "block_{}", "logits": "logits"}


class Size(NamedTuple):
    """The mean absolute value of an activation before the first step, and that of its change over all steps."""

    before: float
    moved: float


Sizes = dict[str, Size]  # by the names of `ACTIVATIONS`: of the last block, and of the model


def check_config(config: RunConfig, widths: list[int]) -> RunConfig:
    """The config with muP, by default from the smallest width. Raises InputError if it, or a width, cannot have muP."""
    if len(widths) < 2:
        raise InputError(f"--widths gives {len(widths)} width, but a slope needs 2 or more, such as 64 128 256.")
    check_plain(config, "the check begins with random weights of several widths")
    if config.model.block is not None:
        raise InputError(f"model.block is {config.model.block}, of which no activations are known; leave it out.")
    base = config.model.mup_base_width or widths[0]
    for width in widths:
        with_width(config.model, width, base)
    return replace(config, model=replace(config.model, mup_base_width=base))


def measure_widths(run: Prepared, widths: list[int], steps: int) -> Iterator[tuple[str, int, Sizes]]:
    """Parametrisation, width and sizes, for each width in both; the base, where they are the same, is measured once."""
    measure = cache(partial(measure_sizes, run, steps=steps))
    for name in (STANDARD, MUP):
        for width in widths:
            base = None if name == STANDARD or width == run.model.mup_base_width else run.model.mup_base_width
            yield name, width, measure(with_width(run.model, width, base))


def with_width(model: GPTConfig, width: int, base: int | None) -> GPTConfig:
    """The model `width` wide, with heads of the same width; without muP where `base` is None.

    Raises InputError for a width for which the number of heads, or the width of the MLP, is no whole number.
    """
    grown = {}
    for name in ("n_heads", "n_kv_heads", "d_ff"):
        if (value := getattr(model, name)) is not None:
            if value * width % model.d_model:
                raise InputError(
                    f"--widths has {width}, for which model.{name} would be {value * width / model.d_model:g}, in "
                    f"proportion to {value} for {model.d_model}; give multiples of {model.d_model}."
                )
            grown[name] = value * width // model.d_model
    return replace(model, d_model=width, mup_base_width=base, **grown)


def measure_sizes(run: Prepared, model: GPTConfig, steps: int) -> Sizes:
    """The sizes for a model after some steps on the first batch of a run, at its learning rate from the first step on.

    The initial parameters are those of the run's seed. Raises DivergedError where one is not finite.
    """
    train, config = run.config.train, replace(run.config.optimizer, schedule="constant", warmup_steps=0)
    gpt, optimizer = make_model(model, train), make_optimizer(config, steps, model.width_ratio)
    state = init_state(gpt, optimizer, train.seed)
    first = jax.tree.map(jnp.copy, state.params)  # a step overwrites its state
    step = make_train_step(gpt, optimizer, train, learning_rate_schedule(config, steps))
    inputs, targets = batch_of(run, 0)
    for _ in range(steps):
        state, _ = step(state, inputs, targets)

    @jax.jit
    def sizes(first: Any, last: Any, tokens: Array) -> Any:
        before, after = (_activations(gpt, params, tokens) for params in (first, last))
        return {name: (jnp.abs(x).mean(), jnp.abs(after[name] - x).mean()) for name, x in before.items()}

    found = {name: Size(*map(float, pair)) for name, pair in sizes(first, state.params, inputs).items()}
    if not np.isfinite([*found.values()]).all():
        raise DivergedError(
            f"activations of the model {model.d_model} wide are not finite after {steps} steps at "
            f"optimizer.learning_rate = {config.learning_rate:g}; lower it."
        )
    return found


def _activations(model: GPT, params: Any, tokens: Array) -> dict[str, Array]:
    _, seen = apply_with_intermediates(model, params, tokens)
    last = model.config.n_layers - 1
    return {name: seen[path.format(last)].astype(jnp.float32) for name, path in ACTIVATIONS.items()}


def slope(widths: list[int], values: list[float]) -> float | None:
    """The power of the width with which values grow, by least squares of logarithms; None where one is 0.

    >>> slope([64, 128, 256], [1.0, 2.0, 4.0])
    1.0
    """
    return round(float(np.polyfit(np.log(widths), np.log(values), 1)[0]), 6) if min(values) > 0 else None
