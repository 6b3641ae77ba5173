"""The functions of a comparison in the form that `jax.vjp` takes: arguments by position, pytrees as results."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.compare.trees import is_float


def by_position(
    fn: Callable[..., Any] | nn.Module, names: Sequence[str], given: Sequence[Any] = ()
) -> Callable[..., Any]:
    """`fn` as a function of positional arguments, the last of which are passed on by `names`.

    The arguments are `opened`; `fn` gets them in the types of those that were `given`, if any were. The first argument
    of a Linen module is its parameters. The result is a pytree of registered types.
    """

    def call(*args: Any) -> Any:
        args = tuple(closed(arg, like) for arg, like in zip(args, given, strict=True)) if given else args
        first, by_name = args[: len(args) - len(names)], dict(zip(names, args[len(args) - len(names) :], strict=True))
        if isinstance(fn, nn.Module):
            return fn.apply({"params": first[0]}, *first[1:], **by_name)
        return fn(*first, **by_name)

    return lambda *args: registered(call(*args))


def in_float64(reference_fn: Callable[..., Any], names: Sequence[str], given: Sequence[Any] = ()) -> Callable[..., Any]:
    """`by_position` of a reference that computes in float64 even if it is a function of JAX."""
    call = by_position(reference_fn, names, given)

    def exact(*args: Any) -> Any:
        with jax.enable_x64(True):
            return call(*args)

    return exact


def vjp_in_float64(
    reference_vjp: Callable[..., Any], names: Sequence[str], given: Sequence[Any] = ()
) -> Callable[..., Any]:
    """`in_float64` of a function that returns a result and its pullback.

    The pullback may leave out the gradients of arguments by name; they are None then.
    """
    call = in_float64(reference_vjp, names, given)

    def exact(*args: Any) -> tuple[Any, Callable[[Any], Any]]:
        out, pullback = call(*args)

        def padded(dy: Any) -> Any:
            gradients = in_float64(pullback, ())(dy)
            positional = isinstance(gradients, list | tuple) and len(gradients) == len(args) - len(names)
            return (*gradients, *[None] * len(names)) if positional else gradients

        return out, padded

    return exact


def registered(tree: Any) -> Any:
    """The tree with each dataclass that is not registered with JAX replaced by the dict of its fields."""

    def convert(leaf: Any) -> Any:
        return _by_field(leaf, registered) if is_dataclass(leaf) and not isinstance(leaf, type) else leaf

    return jax.tree.map(convert, tree)


def opened(tree: Any) -> Any:
    """The tree with each dataclass that holds arrays of floats, and is not registered, as the dict of its fields."""
    return jax.tree.map(lambda leaf: _by_field(leaf, opened) if _holds_floats(leaf) else leaf, tree)


def closed(tree: Any, like: Any) -> Any:
    """The inverse of `opened`: the tree with dataclasses where `like` has them, which are not initialised again."""

    def close(original: Any, now: Any) -> Any:
        if not _holds_floats(original):
            return now
        out = copy.copy(original)
        for field in fields(original):
            object.__setattr__(out, field.name, closed(now[field.name], getattr(original, field.name)))
        return out

    return jax.tree.map(close, like, tree)


def _holds_floats(leaf: Any) -> bool:
    """Whether a leaf is a dataclass with arrays of floats in it."""
    if not is_dataclass(leaf) or isinstance(leaf, type):
        return False
    return any(map(is_float, jax.tree.leaves(registered(leaf))))


def _by_field(leaf: Any, convert: Callable[[Any], Any]) -> dict[str, Any]:
    return {field.name: convert(getattr(leaf, field.name)) for field in fields(leaf)}


def cast(x: Any, dtype: str) -> Any:
    """A leaf of the arguments as `fn` gets it: floats in `dtype`, other arrays as arrays of JAX."""
    if is_float(x):
        return jnp.asarray(x, dtype)
    return jnp.asarray(x) if isinstance(x, np.ndarray) else x


def cotangent(y: jax.Array, rng: np.random.Generator) -> Any:
    """Random numbers like a leaf of the result, for `pullback`; for integers the float0 zeros that JAX expects."""
    if not is_float(y):
        return np.zeros(np.shape(y), jax.dtypes.float0)
    return jnp.asarray(rng.normal(size=y.shape), y.dtype)
