"""Which pieces of a learner train a model: those that are right and can be computed where a model calls them."""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ...config import OptimizerConfig
from ...errors import UserCodeError
from ...optimizer import adamw as our_adamw
from ..checking.check import check
from ..course import ORDER
from ..folder import LearnFolder
from .bridge import IN_MODEL, Bridge
from .loading import digest_of, errors_of
from .pace import too_slow
from .parts import Parts
from .trials import SMALL, normal, trial

NEVER_CALLED = ("simple_attention", "self_attention", "byte_pair_tokenizer")  # in a training
TOLERANCE = 1e-4  # of float32, relative to the largest number


SAYS = {  # of the states of a check
    "right": "",
    "wrong": "wrong, as `jaxllm learn check {}` says",
    "broken": "fails, as `jaxllm learn check {}` says",
    "not written": "not written yet",
    "missing": "its file is missing",
}
SEED = 0  # of the inputs of the check
CALLERS = {  # of a piece in a model: where all of these are the learner's, theirs call what the learner has chosen
    "token_embedding": ("gpt",),
    "position_embedding": ("gpt",),
    "linear_map": ("multi_head_attention", "mlp"),
    "scaled_dot_product": ("causal_attention",),
    "causal_attention": ("multi_head_attention",),
    "multi_head_attention": ("block",),
    "mlp": ("block",),
}


@dataclass(frozen=True)
class Chosen:
    """The pieces that are used, with the sha256 of their files, and why others are not.

    A piece that is neither is called by larger pieces of the learner only, or not at all in training.
    """

    used: dict[str, str]
    why_not: dict[str, str]


def verdicts_of(folder: LearnFolder) -> dict[str, str]:
    """Why a piece is not right, by the check of the course; "" for one that is."""
    return {one.piece.name: SAYS[one.state].format(one.piece.name) for one in check(folder, ORDER, SEED)}


def choose(folder: LearnFolder, verdicts: Mapping[str, str]) -> Chosen:
    """Of the pieces that a check found right, the largest that agree with ours in a model as well.

    `verdicts` are why a piece is not right, by its name; "" for one that is.
    """
    used: dict[str, str] = {}
    why_not: dict[str, str] = {}
    for name in reversed(ORDER):  # larger pieces first
        if name not in verdicts or name in NEVER_CALLED or is_within(name, used):
            continue
        digest = "" if verdicts[name] else digest_of(folder, name)
        if reason := verdicts[name] or why_not_in_model(folder, name, digest):
            why_not[name] = reason
        else:
            used[name] = digest
    return Chosen(used, why_not)


def is_within(name: str, used: Container[str]) -> bool:
    """Whether a piece is called by larger pieces of the learner only, so that these decide about it."""
    callers = CALLERS.get(name, ())
    return bool(callers) and all(caller in used or is_within(caller, used) for caller in callers)


def why_not_in_model(folder: LearnFolder, name: str, digest: str) -> str:
    """Why a piece that is right cannot train, as where `jax.jit` cannot trace it; empty if it can."""
    if name not in IN_MODEL and name != "training_step":
        return ""
    bridge = Bridge(folder.path, {name: digest})
    function = IN_MODEL.get(name)
    try:
        with errors_of(folder.path):
            if function is None:
                agree = _updates_agree(bridge)
            else:
                theirs, ours = getattr(bridge.parts, function), getattr(Parts({}), function)
                if getattr(theirs, "vjp", ours) is None and bridge.language == "numpy":
                    return "right, but a gradient is needed, and the course has none for it"
                agree = _agree(theirs, ours, trial(function, SMALL))
        bridge.watch.check()
    except Exception as error:
        why = "jax.jit cannot trace it" if bridge.language == "jax" else "it fails on a batch"
        return f"right, but {why}: {_last_line(error)}"
    if not agree:
        return "right, but its result or gradient for a batch is another than ours"
    return too_slow(bridge, name)


def _agree(theirs: Callable[..., Any], ours: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Whether values and gradients are those of ours, computed in a jitted program."""
    leaves, structure = jax.tree.flatten(arguments)
    places = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)]

    def of_floats(function: Callable[..., Any], floats: list[Any]) -> Any:
        given = dict(zip(places, floats, strict=True))
        filled = [given.get(i, leaf) for i, leaf in enumerate(leaves)]
        return jnp.asarray(function(*jax.tree.unflatten(structure, filled)), jnp.float32)

    def both(function: Callable[..., Any], floats: list[Any]) -> Any:
        value, pullback = jax.vjp(partial(of_floats, function), floats)
        return value, pullback(jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape))

    floats = [leaves[i] for i in places]
    return _close(*(jax.jit(partial(both, function))(floats) for function in (theirs, ours)))


def _updates_agree(bridge: Bridge) -> bool:
    """Whether two updates of a matrix and a vector are those of our AdamW after our clipping."""
    config = OptimizerConfig()
    ours = optax.chain(optax.clip_by_global_norm(config.clip_norm), our_adamw(config, lambda step: 0.1))
    rng = np.random.default_rng(0)
    params, gradients = ({"a": normal(rng, 3, 2), "b": {"c": normal(rng, 3)}} for _ in range(2))

    def two_updates(optimizer: optax.GradientTransformation) -> Iterator[Any]:
        state = optimizer.init(params)
        for scaled in (jax.tree.map(lambda g: g * 3, gradients), jax.tree.map(lambda g: g / 100, gradients)):
            updates, state = jax.jit(optimizer.update)(scaled, state, params)
            yield updates

    return _close([*two_updates(bridge.adamw(config, lambda step: 0.1))], [*two_updates(ours)])


def _close(theirs: Any, ours: Any) -> bool:
    pairs = zip(jax.tree.leaves(theirs), jax.tree.leaves(ours), strict=True)
    return all(np.allclose(a, b, atol=TOLERANCE * max(1.0, float(np.abs(b).max(initial=0))), rtol=0) for a, b in pairs)


def _last_line(error: Exception) -> str:
    """What an error says in its first sentence; of an exception in the learner's file its last line."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return (lines[-1] if isinstance(error, UserCodeError) else lines[0]).removesuffix(".")[:200]
