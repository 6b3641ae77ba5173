"""A step of Optax beside its reference: schedule, clipping, moments and update."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm import reference
from jaxllm.compare.measure import Comparison, compare_trees, held_to_nothing, largest
from jaxllm.compare.optimizer_states import begin, moments, twin_state, with_constants
from jaxllm.compare.tolerances import TOLERANCES, arithmetic
from jaxllm.compare.trees import in_dtype, named_leaves, to_numpy
from jaxllm.utils.ideas import Idea


def compare_optimizer(
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: Any,
    steps: int,
    step: int,
    params: Any,
    gradients: Any,
    state: Any = None,
    dtype: Literal["float64", "float32"] = "float32",
    width_ratio: float = 1.0,
) -> list[Comparison]:
    """Comparisons of schedule, clipping and update rule by Optax with `jaxllm.reference.optimizer`.

    `optimizer` and `schedule` are those of a run of `steps` steps, `config` the OptimizerConfig that states them, and
    `width_ratio` that of the model. They
    make step number `step` from `params`, `gradients` and `state`, the optimizer's; where `state` is None, AdamW's is
    drawn at random, and another optimizer's is what some updates by random gradients leave. Both sides get the same
    gradients, so a difference is the optimizer's own. Parameters are kept in `dtype`, whatever the model computes in.

    A user's schedule is held to its twin. What depends on an optimizer that the reference does not have, or a schedule
    without a twin, is held to nothing.
    """
    rule = reference.optimizer.OPTIMIZERS.get(config.name)
    rate_of = _schedule_of_reference(config, steps)
    sampled = np.unique(np.linspace(0, steps, 1000).astype(np.int32))
    with arithmetic(dtype):
        params, gradients = in_dtype(params, dtype), in_dtype(gradients, dtype)
        first = in_dtype(optimizer.init(params), dtype)
        if state is None:
            state = begin(config.name, optimizer, first, params, gradients, step)
        state = with_constants(state, first, dtype)
        updates, new_state = jax.jit(optimizer.update)(gradients, state, params)
        rate = schedule(step)
        got = {
            "learning_rate": rate,
            "learning_rate, whole schedule": schedule(jnp.asarray(sampled, int)),
            "gradient norm": optax.tree.norm(gradients),
            "parameters after it": optax.apply_updates(params, updates),
            "update": updates,
            **(moments(twin_state(config.name, new_state, params)) if rule else {}),
        }
    params, gradients, state = to_numpy([params, gradients, state])
    want: dict[str, Any] = {"gradient norm": reference.optimizer.global_norm(gradients)}
    if rate_of:
        rate = rate_of(step)
        want |= {"learning_rate": rate, "learning_rate, whole schedule": np.array([rate_of(int(s)) for s in sampled])}
    if rule:
        clipped = reference.optimizer.clip_by_global_norm(gradients, config.clip_norm)
        before = twin_state(config.name, state, params)
        updates, after = reference.optimizer.rule_update(config, clipped, before, params, float(rate), width_ratio)
        want |= {"parameters after it": jax.tree.map(np.add, params, updates), "update": updates, **moments(after)}
    terms = params if config.name == "schedule_free_adamw" else {}  # its update is a difference of parameters
    scales = {"update": {name: largest(leaf) for name, leaf in named_leaves(terms).items()}}
    return [
        row
        for name, value in got.items()
        for row in _rows(name, value, want.get(name), dtype, scales.get(name), _reason(name, config))
    ]


def _schedule_of_reference(config: Any, steps: int) -> Callable[[int], Any] | None:
    """step -> learning rate in the reference, or by the twin of a user's schedule; None without either."""
    if config.schedule in reference.schedules.SCHEDULES:
        return partial(reference.schedules.learning_rate, config, steps)
    twin = config.schedule.twin if isinstance(config.schedule, Idea) else None
    return twin and twin(config, steps)


def _reason(name: str, config: Any) -> str:
    """Why something may be held to nothing."""
    if name.startswith("learning_rate"):
        return f"no twin of {config.schedule}"
    return f"the reference does not have {config.name}, and takes no twin of an optimizer"


def _rows(
    name: str, got: Any, want: Any, dtype: str, scales: Mapping[str, float] | None, reason: str
) -> list[Comparison]:
    """The rows of one name: those of parameters by name, block_10 after block_9."""
    tree = isinstance(got, dict)
    stage, root = (f"optimizer step: {name}", "") if tree else ("optimizer step", name)
    if want is None:
        return held_to_nothing(stage, _ordered(got), reason, root)
    return compare_trees(stage, got, _ordered(want), TOLERANCES[dtype][1], dtype, root, scales)


def _ordered(tree: Any) -> Any:
    return {k: tree[k] for k in sorted(tree, key=lambda k: (len(k), k))} if isinstance(tree, dict) else tree
