"""Attention of which any part can be replaced by a keyword: the slips of the attention pieces are made of it.

Scores are [..., T, S]. All functions compute as a learner's would: overflow gives inf and NaN without a warning.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from jaxllm.reference.arrays import Array

HIDDEN = float(np.finfo(np.float64).min)  # a masked score; -inf gives NaN where a query may attend to nothing
Normalise = Callable[[Array], Array]
Roles = Callable[[Array, Array, Array], tuple[Array, Array, Array]]
Divisor = Callable[[Array, Array, Array], float]


def softmax(x: Array, axis: int = -1) -> Array:
    """Of an axis that can be chosen.

    >>> softmax(np.zeros((2, 4)), axis=0).tolist()
    [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]]
    """
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def over_queries(x: Array) -> Array:
    """Each column adds to 1 in place of each row."""
    return softmax(x, axis=-2)


def unshifted(x: Array) -> Array:
    """Softmax without subtracting the maximum: inf / inf for large numbers."""
    exponentials = np.exp(x)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def unnormalised(x: Array) -> Array:
    """Softmax without its denominator."""
    return np.exp(x - x.max(axis=-1, keepdims=True))


def unchanged(x: Any) -> Any:
    """No softmax, or no other function."""
    return x


def as_given(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Queries, keys and values in their places."""
    return q, k, v


def query_and_key_swapped(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """Keys ask, and queries are asked."""
    return k, q, v


def keys_as_values(q: Array, k: Array, v: Array) -> tuple[Array, Array, Array]:
    """What is found is the key itself."""
    return q, k, k


def root_of_width(q: Array, k: Array, v: Array) -> float:
    """sqrt(K), the right one."""
    return float(q.shape[-1] ** 0.5)


def width(q: Array, k: Array, v: Array) -> float:
    """K."""
    return float(q.shape[-1])


def one(q: Array, k: Array, v: Array) -> float:
    """No scale."""
    return 1.0


def lower_triangle(length: int, diagonal: int = 0) -> Array:
    """[T, T] bool: True where s <= t + diagonal; 0 is the causal mask."""
    t, s = np.indices((length, length))
    return s <= t + diagonal


def attend(
    q: Array, k: Array, v: Array, mask: Any = None, *, roles: Roles = as_given, divisor: Divisor = root_of_width,
    normalise: Normalise = softmax, seen: Callable[[Array], Array] = unchanged,
    masking: Literal["before", "after", "added", "none"] = "before", hidden: float = HIDDEN, scaled_late: bool = False,
    weights_transposed: bool = False, weights_only: bool = False,
) -> Array:  # fmt: skip
    """Attention [..., T, W] with other roles, divisor of the scores, softmax, mask, or way to use the mask."""
    q, k, v = roles(q, k, v)
    mask = np.ones((q.shape[-2], k.shape[-2]), bool) if mask is None else seen(mask)
    with np.errstate(all="ignore"):
        scores = q @ k.swapaxes(-1, -2) / (1 if scaled_late else divisor(q, k, v))
        if masking in ("before", "added"):
            scores = np.where(mask, scores, hidden) if masking == "before" else scores + mask
        weights = normalise(scores) / (divisor(q, k, v) if scaled_late else 1)
        weights = weights * mask if masking == "after" else weights
        weights = weights.swapaxes(-1, -2) if weights_transposed else weights
        return weights if weights_only else weights @ v
