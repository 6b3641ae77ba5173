"""Derivatives of a NumPy function by differences, for a reference whose backward nobody has written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.compare.report import Row, measure, named_leaves

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
    function: Callable[..., Any], args: list[Any], i: int, name: str, gradient: Any, cotangents: Any,
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

        def moved_by(t: float, v: Any = v) -> Any:
            moved = to_numpy(args)
            moved[i] = jax.tree.map(lambda x, d: x if d is None else x + t * d, moved[i], v)
            with np.errstate(all="ignore"):
                return jax.tree.map(lambda y: np.where(np.isinf(y), 0, y), function(*moved))

        def at(t: float, results: Callable[[float], Any] = moved_by) -> float:
            with np.errstate(all="ignore"):
                return _dot(results(t), cotangents)

        got.append(_dot(gradient, v))
        for h, found in ((1e-3, want), (5e-4, again)):
            found.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    row = measure("gradient", f"{name}, along {DIRECTIONS} directions", got, again, tolerance, dtype)
    doubt = measure("", "", want, again, max(tolerance, NUMERICAL), dtype)
    if row.passed or (doubt.passed and row.relative > NUMERICAL):
        return row
    off = f"its differences are off by {doubt.relative:.0e}; give reference_vjp"
    if doubt.passed:
        note = f"differences are good to {NUMERICAL:.0e} only; give reference_vjp"
    elif _has_few_digits(moved_by(1e-3)):
        note = f"the reference computes in float32 or less, so {off}, or let it compute in float64"
    else:
        note = f"the reference is not smooth here: {off}"
    return replace(row, note=note)


def _has_few_digits(results: Any) -> bool:
    """Whether all floats among them are float32, and so what came in as float64 was rounded. (Whole numbers tell
    nothing.)"""
    floats = [np.asarray(y, np.float64) for y in named_leaves(results).values() if is_float(y)]
    with np.errstate(all="ignore"):
        rounded = all(np.array_equal(y, y.astype(np.float32), equal_nan=True) for y in floats)
    return rounded and not all(np.array_equal(y, np.round(y), equal_nan=True) for y in floats)


def _size(x: Any) -> float:
    """Of a step in `x`: as large as its numbers."""
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2))) or 1.0 if np.size(x) else 1.0


def _dot(a: Any, b: Any) -> float:
    """The sum of products over all leaves that are floats in both."""
    theirs = named_leaves(b)
    pairs = [(np.asarray(x, np.float64), theirs[name]) for name, x in named_leaves(a).items() if is_float(theirs[name])]
    return float(sum(np.sum(x * np.asarray(y, np.float64)) for x, y in pairs))
