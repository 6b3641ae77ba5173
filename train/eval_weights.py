"""The weights that are evaluated and that generate, where they are not the trained parameters themselves."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea, named

from .config import RunConfig
from .state import TrainState

Weights = Callable[[TrainState], Any]


def schedule_free(state: TrainState) -> Any:
    """The average of the parameters that schedule-free optimizers train for (Defazio et al. 2024, equation 3)."""
    kind = optax.contrib.ScheduleFreeState
    nodes = jax.tree.leaves(state.opt_state, is_leaf=lambda node: isinstance(node, kind))
    averaged = next((node for node in nodes if isinstance(node, kind)), None)
    if averaged is None:
        raise InputError(
            "eval.weights is 'schedule_free', but the state of optimizer.name holds no such average; leave it out."
        )
    return optax.contrib.schedule_free_eval_params(averaged, state.params)


# By `eval.weights`, whose values EvalConfig lists.
EVAL_WEIGHTS: dict[str, Weights] = {"schedule_free": schedule_free}


def weights_name(config: RunConfig) -> str | Idea | None:
    """`eval.weights`, or the name of those that the optimizer needs; None for the parameters themselves."""
    return config.eval.weights or ("schedule_free" if config.optimizer.name == "schedule_free_adamw" else None)


def eval_weights(config: RunConfig) -> Weights | None:
    """The jitted function of the name that `weights_name` returns, or None."""
    name = weights_name(config)
    return None if name is None else jax.jit(named(name, EVAL_WEIGHTS, "eval.weights"))
