"""Helpers of the reference: float64 arrays, the form of a backward, and trees of parameters."""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Params = Mapping[str, Any]  # nested dicts of arrays, as `model.init` returns them
Vjp = tuple[Any, Callable[[Any], tuple[Any, ...]]]  # a result and its pullback


def float64(x: ArrayLike) -> Array:
    """`x` as a float64 array."""
    return np.asarray(x, np.float64)


def vjp(function: Callable[..., Vjp]) -> Callable[..., Vjp]:
    """Marks a backward: the pullback returns one gradient for each positional argument, as that of `jax.vjp` does.

    The gradient is None where an argument has no derivative: integers, masks, None, a choice by name. Arguments by
    keyword are constants.
    """

    @wraps(function)
    def with_as_many_gradients(*args: Any, **kwargs: Any) -> Vjp:
        out, pullback = function(*args, **kwargs)
        return out, lambda dy: pullback(dy)[: len(args)]

    return with_as_many_gradients


def chosen(kind: Any, ours: Mapping[str, Any], vjps: Mapping[str, Any]) -> tuple[Any, Any]:
    """The function and its backward that a name means; a user's own twin has both, as `function` and `vjp`."""
    return (ours[kind], vjps[kind]) if isinstance(kind, str) else (kind.function, kind.vjp)


def sum_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an array of `shape` that was broadcast: the sum over all copies of each number."""
    added = tuple(range(gradient.ndim - len(shape)))
    gradient = gradient.sum(axis=added)
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[i] != 1)
    return gradient.sum(axis=stretched, keepdims=True)


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Nested dicts like `tree` with `function` of each leaf, and of the leaves of `others` in the same places."""
    if isinstance(tree, Mapping):
        return {name: tree_map(function, tree[name], *(other[name] for other in others)) for name in tree}
    return function(tree, *others)


def leaves(tree: Any) -> list[Any]:
    """The leaves of nested dicts as a list, depth first."""
    return [leaf for name in tree for leaf in leaves(tree[name])] if isinstance(tree, Mapping) else [tree]
