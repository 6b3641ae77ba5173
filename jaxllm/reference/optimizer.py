"""What Optax does in a training step: clipping, then the update rule that a config names, at its learning rate.

The learning rates are in `schedules`, the rules in `update_rules` and `muon`. Gradients, moments and updates are nested
dicts of arrays like `params`. `config` is an OptimizerConfig.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxllm.reference.arrays import leaves, tree_map
from jaxllm.reference.muon import muon, start_muon
from jaxllm.reference.schedules import learning_rate
from jaxllm.reference.update_rules import (
    Moments,
    adafactor,
    adamw,
    averaged,
    lion,
    schedule_free_adamw,
    sgd,
    start_adafactor,
    start_adamw,
    start_momentum,
    start_schedule_free_adamw,
)

__all__ = [
    "OPTIMIZERS", "Moments", "Optimizer", "adamw", "averaged", "clip_by_global_norm", "global_norm", "learning_rate",
    "start", "update",
]  # fmt: skip


class Optimizer(NamedTuple):
    """An update rule and how its state begins."""

    start: Callable[[Any], Any]  # params -> state
    update: Callable[..., tuple[Any, Any]]  # config, gradients, state, params, learning_rate -> updates, state


# By `optimizer.name`.
OPTIMIZERS = {
    "adamw": Optimizer(start_adamw, adamw),
    "muon": Optimizer(start_muon, muon),
    "lion": Optimizer(start_momentum, lion),
    "adafactor": Optimizer(start_adafactor, adafactor),
    "sgd": Optimizer(start_momentum, sgd),
    "schedule_free_adamw": Optimizer(start_schedule_free_adamw, schedule_free_adamw),
}


def global_norm(tree: Any) -> float:
    """The Euclidean norm of all leaves taken as one vector."""
    return math.sqrt(sum(float((leaf**2).sum()) for leaf in leaves(tree)))


def clip_by_global_norm(gradients: Any, limit: float) -> Any:
    """The gradients, scaled to the norm `limit` if theirs is larger. Pascanu et al. 2013."""
    norm = global_norm(gradients)
    return gradients if norm <= limit else tree_map(lambda g: g * (limit / norm), gradients)


def start(params: Any, name: str = "adamw") -> Any:
    """The state of the optimizer of that name before the first update."""
    return OPTIMIZERS[name].start(params)


def update(
    config: Any, steps: int, step: int, gradients: Any, state: Any, params: Any, width_ratio: float = 1.0
) -> tuple[Any, Any]:
    """The updates and new state of step number `step`: clipping, then the optimizer named `config.name`.

    The updates are added to the parameters. The learning rate is that of the schedule named `config.schedule`;
    `width_ratio` is the model's.
    """
    clipped = clip_by_global_norm(gradients, config.clip_norm)
    return rule_update(config, clipped, state, params, learning_rate(config, steps, step), width_ratio)


def rule_update(
    config: Any, gradients: Any, state: Any, params: Any, rate: float, width_ratio: float = 1.0
) -> tuple[Any, Any]:
    """The updates and new state of the optimizer named `config.name` alone, at a learning rate.

    SGD and Adafactor do not take another `width_ratio` than 1.
    """
    width = () if width_ratio == 1 else (width_ratio,)
    return OPTIMIZERS[config.name].update(config, gradients, state, params, rate, *width)
