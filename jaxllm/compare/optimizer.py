"""A step of Optax beside its reference: schedule, clipping, moments and update."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm import reference
from jaxllm.compare.measure import Comparison, compare_trees
from jaxllm.compare.tolerances import TOLERANCES, arithmetic
from jaxllm.compare.trees import in_dtype, to_numpy


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
    """Comparisons of schedule, clipping and AdamW by Optax with `jaxllm.reference.optimizer`.

    `optimizer` and `schedule` are those of a run of `steps` steps, `config` the OptimizerConfig that states them. They
    make step number `step` from `params`, `gradients` and `state`, the optimizer's; where `state` is None, it is drawn
    at random. Both sides get the same gradients, so a difference is the optimizer's own. Parameters are kept in
    `dtype`, whatever the model computes in.
    """
    sampled = np.unique(np.linspace(0, steps, 1000).astype(np.int32))
    with arithmetic(dtype):
        params, gradients = in_dtype(params, dtype), in_dtype(gradients, dtype)
        if state is None:
            state = _random_moments(optimizer.init(params), gradients, step)
        state = in_dtype(state, dtype)
        updates, new_state = jax.jit(optimizer.update)(gradients, state, params)
        got = {
            "learning_rate": schedule(step),
            "learning_rate, whole schedule": schedule(jnp.asarray(sampled)),
            "gradient norm": optax.tree.norm(gradients),
            "parameters after it": optax.apply_updates(params, updates),
            "update": updates,
            "first moment": optax.tree.get(new_state, "mu"),
            "second moment": optax.tree.get(new_state, "nu"),
        }
    want = _by_numpy(config, steps, step, sampled, *to_numpy([params, gradients, state]))
    rows: list[Comparison] = []
    for name, value in want.items():
        tree = isinstance(value, dict)
        # Parameters by name, block_10 after block_9.
        ordered = {k: value[k] for k in sorted(value, key=lambda k: (len(k), k))} if tree else value
        stage, root = (f"optimizer step: {name}", "") if tree else ("optimizer step", name)
        rows += compare_trees(stage, got[name], ordered, TOLERANCES[dtype][1], dtype, root)
    return rows


def _by_numpy(
    config: Any, steps: int, step: int, sampled: Any, params: Any, gradients: Any, state: Any
) -> dict[str, Any]:
    """What the reference computes, under the names of the report."""
    twin = reference.optimizer
    adam = next(node for node in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(node))
    moments = twin.Moments(int(adam.count), adam.mu, adam.nu)  # a skipped step is not counted as an update
    updates, moments = twin.update(config, steps, step, gradients, moments, params)
    return {
        "learning_rate": twin.learning_rate(config, steps, step),
        "learning_rate, whole schedule": np.array([twin.learning_rate(config, steps, int(s)) for s in sampled]),
        "gradient norm": twin.global_norm(gradients),
        "parameters after it": jax.tree.map(np.add, params, updates),
        "update": updates,
        "first moment": moments.mu,
        "second moment": moments.nu,
    }


def _random_moments(state: Any, gradients: Any, step: int) -> Any:
    """Adam's state after `step` updates, at random: from moments of 0 its first step does not depend on its betas."""
    rng = np.random.default_rng(1)
    size = float(optax.tree.norm(gradients)) / math.sqrt(optax.tree.size(gradients))
    mu = jax.tree.map(lambda g: jnp.asarray(size * rng.standard_normal(g.shape), g.dtype), gradients)
    nu = jax.tree.map(lambda g: jnp.asarray(size**2 * rng.chisquare(3, g.shape), g.dtype), gradients)
    return optax.tree.set(state, count=jnp.asarray(step, jnp.int32), mu=mu, nu=nu)


def _is_adam(node: Any) -> bool:
    return isinstance(node, optax.ScaleByAdamState)
