"""Linear maps with int8 weights. The derivative of rounding is zero, so there is no backward."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, float64


def quantise_rows(x: ArrayLike) -> tuple[Array, Array]:
    """Each row [..., D] as integers from -127 to 127 and a scale [..., 1]; halves are rounded to even."""
    x = float64(x)
    scale = np.abs(x).max(axis=-1, keepdims=True) / 127
    return np.rint(np.divide(x, scale, out=np.zeros_like(x), where=scale != 0)).astype(np.int8), scale


def quantised_product(x: ArrayLike, weights: ArrayLike, scale: ArrayLike) -> Array:
    """The product of x, quantised by rows, with int8 weights [F, D], times both scales: [..., D] -> [..., F]."""
    rows, row_scale = quantise_rows(x)
    return float64(rows) @ float64(weights).T * row_scale * float64(scale)


def packed_product(x: ArrayLike, weights: ArrayLike, scale: ArrayLike | None = None) -> Array:
    """y_f = scale_f sum_d weights_fd x_d, x rounded where there is a scale: `x @ PackedKernel(weights, scale)`."""
    return float64(x) @ float64(weights).T if scale is None else quantised_product(x, weights, scale)
