"""The optimizer and its learning-rate schedule: what a config's [optimizer] section selects."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from .config import OptimizerConfig


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Returns step -> learning rate: linear warm-up from lr / (warmup + 1), then a cosine, as in nanoGPT's train.py.

    Written out because `optax.warmup_cosine_decay_schedule` subtracts the peak from the warm-up, which loses digits
    in float32.
    """
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps

    def schedule(step: ArrayLike) -> Array:
        now = jnp.asarray(step, float)
        rising = highest * (now + 1) / (warmup + 1)
        done = jnp.clip((now - warmup) / (steps - warmup), 0, 1)
        falling = lowest + (highest - lowest) * (1 + jnp.cos(jnp.pi * done)) / 2
        return jnp.where(now < warmup, rising, falling)

    return schedule


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, then the optimizer named `config.name` at the scheduled learning rate."""
    return optimizer_with(config, learning_rate_schedule(config, steps))


def optimizer_with(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """As `make_optimizer`, at the learning rates of another schedule."""
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), OPTIMIZERS[config.name](config, schedule))


def adamw(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) with weight decay on matrices only."""
    return optax.adamw(
        schedule,
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
    )


# By `optimizer.name`, whose values OptimizerConfig lists.
OPTIMIZERS: dict[str, Callable[[OptimizerConfig, optax.Schedule], optax.GradientTransformation]] = {"adamw": adamw}
