"""Attention of which any part can be replaced: the slips of the attention pieces are made of it.

Scores are [..., T, S]. All functions compute as a learner's would: overflow gives inf and NaN without a warning.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxllm.reference.arrays import Array

HIDDEN = float(np.finfo(np.float64).min)  # a masked score; -inf gives NaN where a query may attend to nothing
Normalise = Callable[[Array], Array]


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


def unchanged(x: Array) -> Array:
    """No softmax."""
    return x


def transposed(x: Array) -> Array:
    """Softmax, and then rows and columns swapped."""
    return softmax(x).swapaxes(-1, -2)


def weights(
    q: Array, k: Array, mask: Any = None, divisor: float | None = None, normalise: Normalise = softmax,
    hidden: float = HIDDEN,
) -> Array:  # fmt: skip
    """The weights [..., T, S]; scores are divided by `divisor`, sqrt(K) if not given."""
    with np.errstate(all="ignore"):
        scores = q @ k.swapaxes(-1, -2) / (q.shape[-1] ** 0.5 if divisor is None else divisor)
        return normalise(scores if mask is None else np.where(mask, scores, hidden))


def attend(
    q: Array, k: Array, v: Array, mask: Any = None, divisor: float | None = None, normalise: Normalise = softmax,
    hidden: float = HIDDEN,
) -> Array:  # fmt: skip
    """The weights times the values [..., T, W]."""
    with np.errstate(all="ignore"):
        return weights(q, k, mask, divisor, normalise, hidden) @ v


def lower_triangle(length: int, diagonal: int = 0) -> Array:
    """[T, T] bool: True where s <= t + diagonal; 0 is the causal mask."""
    t, s = np.indices((length, length))
    return s <= t + diagonal
