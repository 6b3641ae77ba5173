"""The calls of a comparison: arguments by name, results that JAX does not know, and a reference in full precision.

`jax.vjp` and NumPy's functions take arguments by position and return arrays; here whatever a user's function takes and
returns is brought into that form.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.compare.finite_differences import is_float
from jaxllm.utils.errors import InputError


def by_position(fn: Callable[..., Any] | nn.Module, names: Sequence[str]) -> Callable[..., Any]:
    """`fn` as a function whose last arguments are those called `names`, and which returns what JAX knows.

    A Linen module's first argument is its parameters.
    """

    def call(*args: Any) -> Any:
        first, by_name = args[: len(args) - len(names)], dict(zip(names, args[len(args) - len(names) :], strict=True))
        if isinstance(fn, nn.Module):
            return fn.apply({"params": first[0]}, *first[1:], **by_name)
        return fn(*first, **by_name)

    return lambda *args: known(call(*args))


def in_float64(reference_fn: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """`by_position` of a reference; where that is a function of JAX, it computes in float64."""
    call = by_position(reference_fn, names)

    def exact(*args: Any) -> Any:
        with jax.enable_x64(True):
            return call(*args)

    return exact


def vjp_in_float64(reference_vjp: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """`in_float64` of a function that returns a result and its pullback.

    The pullback may leave out the arguments by name where they are constants.
    """
    call = in_float64(reference_vjp, names)

    def exact(*args: Any) -> tuple[Any, Callable[[Any], Any]]:
        out, pullback = call(*args)

        def padded(dy: Any) -> Any:
            gradients = in_float64(pullback, ())(dy)
            positional = isinstance(gradients, list | tuple) and len(gradients) == len(args) - len(names)
            return (*gradients, *[None] * len(names)) if positional else gradients

        return out, padded

    return exact


def known(tree: Any) -> Any:
    """The tree with each dataclass that is no registered pytree as the dict of its fields."""

    def convert(leaf: Any) -> Any:
        if is_dataclass(leaf) and not isinstance(leaf, type):
            return {field.name: known(getattr(leaf, field.name)) for field in fields(leaf)}
        return leaf

    return jax.tree.map(convert, tree)


def cast(x: Any, dtype: str) -> Any:
    """What `fn` gets for a leaf of the arguments. Raises InputError for one whose arrays JAX would not find."""
    if is_float(x):
        return jnp.asarray(x, dtype)
    if any(map(is_float, jax.tree.leaves(known(x)))):
        raise InputError(
            f"an argument holds a {type(x).__name__}, a dataclass with arrays that JAX does not know; register it with "
            "jax.tree_util.register_dataclass, or pass a dict."
        )
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def cotangent(y: jax.Array, rng: np.random.Generator) -> Any:
    """Random numbers to pull back for a leaf of the result."""
    if not is_float(y):
        return np.zeros(np.shape(y), jax.dtypes.float0)
    return jnp.asarray(rng.normal(size=y.shape), y.dtype)
