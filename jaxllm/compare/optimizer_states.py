"""The state of an optimizer of Optax as its twin in `jaxllm.reference` has it, and a random state to begin from."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from jaxllm.compare.trees import in_dtype
from jaxllm.reference.muon import Muon
from jaxllm.reference.update_rules import Averaged, Factored, Moments, Momentum, longest_sides

UPDATES = 3  # that are made before a comparison, at most


def twin_state(name: str, state: Any, params: Any) -> Any:
    """The state of the optimizer of that name as `jaxllm.reference.optimizer` takes it."""
    return STATES[name](state, params)


def moments(state: Any) -> dict[str, Any]:
    """The arrays of a twin's state, under the names of the report."""
    if isinstance(state, Moments):
        return {"first moment": state.mu, "second moment": state.nu}
    if isinstance(state, Momentum):
        return {"momentum": state.mu}
    if isinstance(state, Factored):
        return {"second moment": state.nu}
    if isinstance(state, Averaged):
        return {"second moment": state.nu, "z": state.z, "sum of weights": state.weights}
    return {"momentum": state.mu, **moments(state.rest)}


def _adamw(state: Any, _: Any) -> Moments:
    adam = _node(state, optax.ScaleByAdamState)
    return Moments(_count(adam), _pruned(adam.mu), _pruned(adam.nu))  # a skipped step is not counted as an update


def _muon(state: Any, params: Any) -> Muon:
    muon = _node(state, contrib.MuonState)
    return Muon(_count(muon), _pruned(muon.mu), _adamw(state, params))


def _lion(state: Any, _: Any) -> Momentum:
    return Momentum(_node(state, optax.ScaleByLionState).mu)


def _sgd(state: Any, params: Any) -> Momentum:
    found = _node(state, optax.TraceState)
    return Momentum(found.trace if found else jax.tree.map(lambda p: 0 * p, params))  # none where momentum is 0


def _adafactor(state: Any, params: Any) -> Factored:
    """Optax's "row" is the mean over the longer side, or over the second of equal ones."""
    found = _node(state, optax.FactoredState)

    def second_moment(p: Any, over_longer: Any, over_shorter: Any, whole: Any) -> Any:
        if p.ndim < 2:
            return whole
        first, second = longest_sides(p.shape)
        tall = p.shape[first] > p.shape[second]
        return (over_shorter, over_longer) if tall else (over_longer, over_shorter)

    return Factored(_count(found), jax.tree.map(second_moment, params, found.v_row, found.v_col, found.v))


def _schedule_free_adamw(state: Any, _: Any) -> Averaged:
    averaged = _node(state, contrib.ScheduleFreeState)
    rms = averaged.base_optimizer_state[0]
    return Averaged(_count(rms), rms.nu, averaged.z, averaged.max_lr, averaged.weight_sum)


STATES = {
    "adamw": _adamw, "muon": _muon, "lion": _lion, "adafactor": _adafactor, "sgd": _sgd,
    "schedule_free_adamw": _schedule_free_adamw,
}  # fmt: skip


def _node(state: Any, kind: Any) -> Any:
    """The part of the state that is of that kind, or None."""
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kind))
    return next((node for node in nodes if isinstance(node, kind)), None)


def _count(node: Any) -> int:
    return int(node.count)


def _pruned(tree: Any) -> Any:
    """Nested dicts without the places of the parameters that another optimizer updates."""
    if not isinstance(tree, dict):
        return tree
    return {name: _pruned(x) for name, x in tree.items() if jax.tree.leaves(x)}


def begin(
    name: str, optimizer: optax.GradientTransformation, first: Any, params: Any, gradients: Any, step: int
) -> Any:  # fmt: skip
    """A random state at step number `step` of the optimizer of that name, whose first state is `first`."""
    if name == "adamw":
        return _random_moments(first, gradients, step)
    return _after_some_updates(optimizer, first, params, gradients, step)


def _random_moments(state: Any, gradients: Any, step: int) -> Any:
    """Adam's state after `step` updates, at random: from moments of 0 its first step does not depend on its betas."""
    rng = np.random.default_rng(1)
    size = float(optax.tree.norm(gradients)) / math.sqrt(optax.tree.size(gradients))
    mu = jax.tree.map(lambda g: jnp.asarray(size * rng.standard_normal(g.shape), g.dtype), gradients)
    nu = jax.tree.map(lambda g: jnp.asarray(size**2 * rng.chisquare(3, g.shape), g.dtype), gradients)
    return optax.tree.set(state, count=jnp.asarray(step, jnp.int32), mu=mu, nu=nu)


def _after_some_updates(
    optimizer: optax.GradientTransformation, state: Any, params: Any, gradients: Any, step: int
) -> Any:  # fmt: skip
    """A state of the optimizer at step number `step`: some updates of its first state by random gradients.

    Its counters say `step`, also where fewer updates were made.
    """
    rng = np.random.default_rng(1)
    update = jax.jit(optimizer.update)
    for _ in range(min(step, UPDATES)):
        factors = jax.tree.map(lambda g: jnp.asarray(rng.standard_normal(g.shape), g.dtype), gradients)
        _, state = update(jax.tree.map(jnp.multiply, factors, gradients), state, params)
    first = {"count": 0, "step_count": 1}

    def counted(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path[-1:], simple=True) if path else ""
        return jnp.asarray(step + first[name], leaf.dtype) if name in first else leaf

    return jax.tree_util.tree_map_with_path(counted, state)


def with_constants(state: Any, first: Any, dtype: str) -> Any:
    """The state in `dtype`. Constants in it are those of `first`, the state that `init` returns in that dtype.

    Muon's coefficients are part of its state. Kept in float32, they have too few digits for a comparison in float64.
    """
    state = in_dtype(state, dtype)
    muon = _node(first, contrib.MuonState)
    return optax.tree.set(state, ns_coeffs=muon.ns_coeffs) if muon else state
