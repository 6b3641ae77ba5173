"""Derivatives of a NumPy function by finite differences, for a reference without a backward."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxllm.compare.few_digits import few_digits, size
from jaxllm.compare.measure import Comparison, measure
from jaxllm.compare.trees import is_float, named_leaves, to_numpy

DIRECTIONS = 8
ACCURACY = 1e-8  # the relative error of a difference at best


def along_directions(
    function: Callable[..., Any], args: list[Any], i: int, name: str, gradient: Any, cotangents: Any,
    tolerance: float, dtype: str, seed: int,
) -> Comparison:  # fmt: skip
    """The comparison of derivatives along random directions in argument `i`: by `gradient`, and by differences.

    The difference is (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, with an error of the order of h^4. It is taken with
    two values of h; where the two differ, a note says why differences of `function` cannot judge `gradient`.
    """
    rng = np.random.default_rng(seed + 1)
    got: list[float] = []
    want: list[float] = []
    finer: list[float] = []
    for _ in range(DIRECTIONS):
        v = jax.tree.map(lambda x: size(x) * rng.normal(size=x.shape) if is_float(x) else None, args[i])

        def moved_by(t: float, v: Any = v) -> Any:
            moved = to_numpy(args)
            moved[i] = jax.tree.map(lambda x, d: x if d is None else x + t * d, moved[i], v)
            with np.errstate(all="ignore"):
                return jax.tree.map(lambda y: np.where(np.isinf(y), 0, y), function(*moved))

        def at(t: float, results: Callable[[float], Any] = moved_by) -> float:
            with np.errstate(all="ignore"):
                return _dot(results(t), cotangents)

        got.append(_dot(gradient, v))
        for h, found in ((1e-3, want), (5e-4, finer)):
            found.append((8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h))
    row = measure("gradient", f"{name}, along {DIRECTIONS} directions", got, finer, tolerance, dtype)
    doubt = measure("", "", want, finer, max(tolerance, ACCURACY), dtype)
    if row.passed or (doubt.passed and row.relative > ACCURACY):
        return row
    off = f"its differences are off by {doubt.relative:.0e}; give reference_vjp"
    if doubt.passed:
        note = f"differences are good to {ACCURACY:.0e} only; give reference_vjp"
    elif few_digits(moved_by(1e-3)):
        note = f"the reference computes in float32 or less, so {off}, or let it compute in float64"
    else:
        note = f"the reference is not smooth here: {off}"
    return replace(row, note=note)


def _dot(a: Any, b: Any) -> float:
    """The sum of products of two trees, over the leaves that are floats in the second."""
    theirs = named_leaves(b)
    pairs = [(np.asarray(x, np.float64), theirs[name]) for name, x in named_leaves(a).items() if is_float(theirs[name])]
    return float(sum(np.sum(x * np.asarray(y, np.float64)) for x, y in pairs))
