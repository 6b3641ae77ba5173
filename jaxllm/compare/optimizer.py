"""A step of Optax beside its reference: schedule, clipping, moments and update."""

from collections.abc import Mapping
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
) -> list[Comparison]:
    """Comparisons of schedule, clipping and update rule by Optax with `jaxllm.reference.optimizer`.

    `optimizer` and `schedule` are those of a run of `steps` steps, `config` the OptimizerConfig that states them. They
    make step number `step` from `params`, `gradients` and `state`, the optimizer's; where `state` is None, AdamW's is
    drawn at random, and another optimizer's is what some updates by random gradients leave. Both sides get the same
    gradients, so a difference is the optimizer's own. Parameters are kept in `dtype`, whatever the model computes in.

    What depends on an optimizer or a schedule that the reference does not have is held to nothing.
    """
    rule = reference.optimizer.OPTIMIZERS.get(config.name)
    scheduled = config.schedule in reference.schedules.SCHEDULES
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
            "learning_rate, whole schedule": schedule(jnp.asarray(sampled)),
            "gradient norm": optax.tree.norm(gradients),
            "parameters after it": optax.apply_updates(params, updates),
            "update": updates,
            **(moments(twin_state(config.name, new_state, params)) if rule else {}),
        }
    params, gradients, state = to_numpy([params, gradients, state])
    want: dict[str, Any] = {"gradient norm": reference.optimizer.global_norm(gradients)}
    if scheduled:
        every = [reference.schedules.learning_rate(config, steps, int(s)) for s in sampled]
        rate = reference.schedules.learning_rate(config, steps, step)
        want |= {"learning_rate": rate, "learning_rate, whole schedule": np.array(every)}
    if rule:
        clipped = reference.optimizer.clip_by_global_norm(gradients, config.clip_norm)
        before = twin_state(config.name, state, params)
        updates, after = rule.update(config, clipped, before, params, float(rate))
        want |= {"parameters after it": jax.tree.map(np.add, params, updates), "update": updates, **moments(after)}
    terms = params if config.name == "schedule_free_adamw" else {}  # its update is a difference of parameters
    scales = {"update": {name: largest(leaf) for name, leaf in named_leaves(terms).items()}}
    return [row for name, value in got.items() for row in _rows(name, value, want.get(name), dtype, scales.get(name))]


def _rows(name: str, got: Any, want: Any, dtype: str, scales: Mapping[str, float] | None) -> list[Comparison]:
    """The rows of one name: those of parameters by name, block_10 after block_9."""
    tree = isinstance(got, dict)
    stage, root = (f"optimizer step: {name}", "") if tree else ("optimizer step", name)
    if want is None:
        field = "schedule" if name.startswith("learning_rate") else "name"
        return held_to_nothing(stage, _ordered(got), f"no twin of optimizer.{field}", root)
    return compare_trees(stage, got, _ordered(want), TOLERANCES[dtype][1], dtype, root, scales)


def _ordered(tree: Any) -> Any:
    return {k: tree[k] for k in sorted(tree, key=lambda k: (len(k), k))} if isinstance(tree, dict) else tree
