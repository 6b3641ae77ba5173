"""The reference's form of a user's functions: their twins, or where there is none the function itself in float64.

A config for the reference has a `Twin` where the model's has an `Idea`. A backward that the user has not written is
taken by central differences.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm import reference
from jaxllm.compare.measure import Comparison
from jaxllm.config import IDEAS, GPTConfig
from jaxllm.loss import takes_hidden
from jaxllm.reference.arrays import Array, Vjp, sum_to
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea

STEP = 1e-5  # of a central difference, relative to a number above 1: as exact for slopes with a jump as for smooth ones
ACCURACY = 1e-8  # of gradients by differences, relative to the largest
# The first intermediate that depends on the function of a field.
FIRST = {
    "position": "position_embedding", "norm": "block_0/norm_1", "visible": "block_0/attention/weights",
    "score": "block_0/attention/weights", "activation": "block_0/mlp", "block": "block_0", "logits": "logits",
    "loss": "loss",
}  # fmt: skip
ELEMENTWISE = ("activation", "score", "logits")  # results whose every number depends on one number of each argument


@dataclass(frozen=True)
class Twin:
    """A function of NumPy in float64 and its backward, `vjp(*args) -> (out, pullback)`."""

    function: Callable[..., Any]
    vjp: Callable[..., Vjp]
    by_differences: bool = False  # whether the backward is not the user's


def twin_of(idea: Idea, field: str) -> Twin:
    """The twin of the function that a field of a config holds."""
    if idea.twin is None and field == "block":
        return Twin(_block_in_float64(idea), _no_backward)
    if idea.twin is None:
        return Twin(_in_float64(idea), _vjp_in_float64(idea))
    if field == "block":
        return Twin(idea.twin, _no_backward)
    if idea.twin_vjp is not None:
        return Twin(idea.twin, idea.twin_vjp)
    function, by = idea.twin, _each_number if field in ELEMENTWISE else _each_feature
    return Twin(function, lambda *args: (function(*args), partial(by, function, args)), by_differences=True)


def reference_config(config: GPTConfig) -> Any:
    """The config with a `Twin` in each field that holds a function."""
    derived = (
        "head_dim", "kv_heads", "hidden_dim", "width_ratio", "rotary", "adds_positions", "gated", "active_experts",
    )  # fmt: skip
    values = {name: getattr(config, name) for name in (*config.__dataclass_fields__, *derived)}
    twins = {name: twin_of(values[name], name) for name in IDEAS if isinstance(values[name], Idea)}
    return SimpleNamespace(**values | twins, of_model=config) if twins else config


def twin_loss(loss: Idea | None) -> Twin:
    """The twin of a user's token losses, a function of (logits, targets) also where theirs reads hidden states.

    Raises InputError for a twin that reads hidden states.
    """
    if loss is None:
        return Twin(reference.loss.token_losses, reference.loss.token_losses_vjp)
    if loss.twin is None and takes_hidden(loss):  # nothing of it can be compared
        return Twin(reference.loss.token_losses, reference.loss.token_losses_vjp)
    if loss.twin is not None and takes_hidden(loss.twin):
        raise InputError(
            f"the twin of {loss.name} takes (hidden, table, targets), but it must be a function of (logits, targets), "
            "which the reference has."
        )
    return twin_of(loss, "loss")


def by_differences(config: GPTConfig, loss: Idea | None) -> bool:
    """Whether a backward of the reference is taken by differences."""
    ideas = [(name, getattr(config, name)) for name in IDEAS if isinstance(getattr(config, name), Idea)]
    return any(twin_of(idea, name).by_differences for name, idea in ideas) or twin_loss(loss).by_differences


def held(rows: list[Comparison], config: GPTConfig, loss: Idea | None) -> list[Comparison]:
    """The rows of a model, of which those that depend on a function without a twin are held to nothing."""
    ideas = {name: idea for name in IDEAS if isinstance(idea := getattr(config, name), Idea)} | {"loss": loss}
    alone = {name: idea for name, idea in ideas.items() if idea is not None and idea.twin is None}
    if not alone:
        return rows
    order = [row.name for row in rows if row.stage == "forward"]
    inside = FIRST["block"]  # of a user's block nothing but the result is known
    first = min(order.index(FIRST[name] if FIRST[name] in order else inside) for name in alone)
    note = "no twin of " + ", ".join(idea.name for idea in alone.values())
    from_there = set(order[first:])
    unknown: Any = dict.fromkeys(("max_abs", "relative", "ulp", "tolerance"), math.nan)
    return [
        replace(row, compared=False, note=note, **unknown) if row.stage != "forward" or row.name in from_there else row
        for row in rows
    ]


def _in_float64(idea: Idea) -> Callable[..., Any]:
    """The user's own function of JAX, computed in float64."""

    def function(*args: Any, **kwargs: Any) -> Any:
        with jax.enable_x64(True):
            given = [jnp.asarray(x) if isinstance(x, np.ndarray) else x for x in args]
            return jax.tree.map(np.asarray, idea(*given, **kwargs))

    return function


def _block_in_float64(idea: Idea) -> Callable[..., Any]:
    """A user's block of Flax, computed in float64: (config, params, x, *carry, documents=None)."""

    def block(config: Any, params: Any, *carried: Any, documents: Any = None) -> Any:
        with jax.enable_x64(True):
            out = idea.function(config.of_model).apply(
                {"params": params}, *map(jnp.asarray, carried), documents=documents
            )
            return jax.tree.map(np.asarray, out)

    return block


def _no_backward(*args: Any) -> Vjp:
    raise NotImplementedError("a user's block has no backward in the reference")


def _vjp_in_float64(idea: Idea) -> Callable[..., Vjp]:
    """Its backward by JAX."""

    def function_vjp(*args: Any) -> Vjp:
        floats = [i for i, x in enumerate(args) if _is_float(x)]

        def of_floats(*some: Any) -> Any:
            given = dict(zip(floats, some, strict=True))
            return idea(*(given.get(i, x) for i, x in enumerate(args)))

        with jax.enable_x64(True):
            out, back = jax.vjp(of_floats, *(jnp.asarray(args[i]) for i in floats))

        def pullback(dy: Array) -> tuple[Array | None, ...]:
            with jax.enable_x64(True):
                given = dict(zip(floats, map(np.asarray, back(jnp.asarray(dy))), strict=True))
            return tuple(given.get(i) for i in range(len(args)))

        return np.asarray(out), pullback

    return function_vjp


def _each_number(function: Callable[..., Any], args: tuple[Any, ...], dy: Array) -> tuple[Array | None, ...]:
    """The gradients of an elementwise function's arguments."""
    grads: list[Array | None] = []
    for i, x in enumerate(args):
        h = STEP * np.maximum(1.0, np.abs(x)) if _is_float(x) else None
        grads.append(None if h is None else sum_to(dy * _difference(function, args, i, h) / (2 * h), np.shape(x)))
    return tuple(grads)


def _each_feature(function: Callable[..., Any], args: tuple[Any, ...], dy: Array) -> tuple[Array | None, ...]:
    """The gradients of the arguments of a function of the last axis, a norm or a loss: a feature is moved at a time."""

    def gradient(i: int, x: Array) -> Array:
        h, columns = STEP * max(1.0, float(np.abs(x).max())), []
        for j in range(x.shape[-1]):
            slope = dy * _difference(function, args, i, h * (np.arange(x.shape[-1]) == j)) / (2 * h)
            columns.append(slope.sum(axis=tuple(range(x.ndim - 1, slope.ndim))))
        return np.stack(columns, axis=-1)

    return tuple(gradient(i, x) if _is_float(x) else None for i, x in enumerate(args))


def _difference(function: Callable[..., Any], args: tuple[Any, ...], i: int, step: Array) -> Array:
    """How much a function differs between two values of its argument number i, a step above and a step below."""
    above, below = (np.asarray(function(*args[:i], args[i] + move, *args[i + 1 :])) for move in (step, -step))
    return np.asarray(above - below)


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and np.issubdtype(x.dtype, np.floating)
