"""Twin of `jaxllm.fast.few_rows`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp
from jaxllm.reference.layers import linear_vjp


def rows_product(x: ArrayLike, weights: ArrayLike, dtype: object = None) -> Array:
    """y_f = sum_d x_d weights_fd: [..., D], [F, D] -> [..., F]."""
    return float64(x) @ float64(weights).T


@vjp
def rows_product_vjp(x: ArrayLike, weights: ArrayLike, dtype: object = None) -> Vjp:
    """That of a linear map whose kernel is the transpose of the weights."""
    y, back = linear_vjp(x, np.transpose(weights))

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dx, dkernel = back(dy)
        return dx, dkernel.T, None

    return y, pullback
