"""References that compute in float32 or less: a failure that no change of the compared function removes."""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.compare.measure import Comparison
from jaxllm.compare.trees import is_float, named_leaves

# The largest error that rounding to a type explains, relative to the largest value.
EXPLAINS = {"bfloat16": 1e-1, "float16": 1e-2, "float32": 1e-4}


def few_digits(results: Any) -> str | None:
    """The narrowest of bfloat16, float16 and float32 that holds all floats of a tree; None if none does.

    Whole numbers are numbers of each of them whatever computed them, and do not count.
    """
    floats = [np.asarray(y, np.float64) for y in named_leaves(results).values() if is_float(y)]
    with np.errstate(all="ignore"):
        if all(np.array_equal(y, np.round(y), equal_nan=True) for y in floats):
            return None
        for dtype in EXPLAINS:
            if all(np.array_equal(y, y.astype(jnp.dtype(dtype)).astype(np.float64), equal_nan=True) for y in floats):
                return dtype
    return None


def off_the_grid(tree: Any, seed: int) -> Any:
    """The tree with floats in float64 and moved by about a thousandth, so that few are numbers of a narrower type."""
    rng = np.random.default_rng(seed)

    def moved(x: Any) -> Any:
        return np.array(x, np.float64) + 1e-3 * size(x) * rng.normal(size=np.shape(x)) if is_float(x) else x

    return jax.tree.map(moved, tree)


def size(x: Any) -> float:
    """The root mean square of an array's numbers, 1 where they are all 0."""
    return float(np.sqrt(np.mean(np.asarray(x, np.float64) ** 2))) or 1.0 if np.size(x) else 1.0


def with_cause(
    rows: Iterable[Comparison], compute: Callable[[], Any], what: str = "the reference is",
    remedy: str = "let it compute in float64",
) -> list[Comparison]:  # fmt: skip
    """The rows, with a note on each that is beyond tolerance by what rounding of the reference explains.

    `compute` returns numbers of the reference for arguments in float64, such as `off_the_grid` makes; it is called only
    where a row has failed. `what` and `remedy` are the words of the note.
    """
    rows = list(rows)
    if not any(row.failed and math.isfinite(row.relative) for row in rows):
        return rows
    try:
        with np.errstate(all="ignore"):
            results = compute()
    except Exception:  # a reference may refuse other arguments than the given ones
        return rows
    dtype = few_digits(results)
    if dtype is None:
        return rows
    of_jax = any(isinstance(y, jax.Array) for y in jax.tree.leaves(results))
    jaxs = "JAX's and " if of_jax else ""
    cause = f"{what} {jaxs}in {dtype}, whose rounding can be this large: {remedy}, or allow it by tolerance"
    return [
        replace(row, note="; ".join(filter(None, [row.note, cause])))
        if row.failed and row.relative <= EXPLAINS[dtype]
        else row
        for row in rows
    ]
