"""Twins of `jaxllm.fast.quantised_weights`, in float64. Rounding has no slope: it passes no gradient on."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, float64


def quantise_rows(x: ArrayLike) -> tuple[Array, Array]:
    """127 is the largest of each row; halves go to the even neighbour."""
    x = float64(x)
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)).astype(np.int8), scale


def quantised_product(x: ArrayLike, weights: ArrayLike, scale: ArrayLike) -> Array:
    """(x / s, rounded) W^T, times both scales."""
    rows, row_scale = quantise_rows(x)
    return float64(rows) @ float64(weights).T * row_scale * float64(scale)


def packed_product(x: ArrayLike, weights: ArrayLike, scale: ArrayLike | None = None) -> Array:
    """y_f = scale_f sum_d weights_fd x_d, x rounded where there is a scale: `x @ PackedKernel(weights, scale)`."""
    return float64(x) @ float64(weights).T if scale is None else quantised_product(x, weights, scale)
