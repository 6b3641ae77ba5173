"""Derivatives of a NumPy function by differences, for a reference whose backward nobody has written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.deviation import Row, measure, named_leaves

DIRECTIONS = 8
NUMERICAL = 1e-8  # what the relative error may be at best


def is_float(x: Any) -> bool:
    """Whether `x` is an array of floats; a Python number is none."""
    return isinstance(x, np.ndarray | np.floating | jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def to_numpy(tree: Any) -> Any:
    """The same numbers for NumPy, in float64, as copies that a careless reference may change."""

    def convert(x: Any) -> Any:
        if is_float(x):
            return np.array(x, np.float64)
        return np.array(x) if isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(convert, tree)


def along_directions(
    function: Callable[..., Any], args: list[Any], i: int, gradient: Any, cotangents: Any,
    tolerance: float, dtype: str, seed: int,
) -> Row:  # fmt: skip
    """The derivative along random directions of argument `i`: by `gradient`, and by differences of `function`.

    (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose error is of the order of h^4; with h halved it must be the same.
    """
    rng = np.random.default_rng(seed + 1)
    got: list[float] = []
    want: list[float] = []
    again: list[float] = []
    for _ in range(DIRECTIONS):
        v = jax.tree.map(lambda x: _size(x) * rng.normal(size=x.shape) if is_float(x) else None, args[i])

        def at(t: float, v: Any = v) -> float:
            moved = to_numpy(args)
            moved[i] = jax.tree.map(lambda x, d: x if d is None else x + t * d, moved[i], v)
            with np.errstate(all="ignore"):
                return _dot(jax.tree.map(lambda y: np.where(np.isinf(y), 0, y), function(*moved)), cotangents)

        got.append(_dot(gradient, v))
        for h, found in ((1e-3, want), (5e-4, again)):
            found.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    row = measure(
        "gradient", f"argument {i}, along {DIRECTIONS} directions", got, again, max(tolerance, NUMERICAL), dtype
    )
    doubt = measure("", "", want, again, row.tolerance, dtype)
    if row.passed or doubt.passed:
        return row
    return replace(
        row,
        note=f"the reference is not smooth here: its differences are off by {doubt.relative:.0e}; give reference_vjp",
    )


def _size(x: Any) -> float:
    """Of a step in `x`: as large as its numbers."""
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2))) or 1.0


def _dot(a: Any, b: Any) -> float:
    """The sum of products over all leaves that are floats in both."""
    theirs = named_leaves(b)
    pairs = [(np.asarray(x, np.float64), theirs[name]) for name, x in named_leaves(a).items() if is_float(theirs[name])]
    return float(sum(np.sum(x * np.asarray(y, np.float64)) for x, y in pairs))
