"""Linear maps of frozen weights: with a low-rank adapter beside them, and with weights in int8."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp


def lora_linear(
    x: ArrayLike, kernel: ArrayLike, a: ArrayLike, b: ArrayLike, scale: float, keep: ArrayLike | None = None
) -> Array:
    """y = x W + scale ((m x) A) B with W [D, F], A [D, r], B [r, F]; the dropout mask m [..., D] is `keep`, or 1.

    Hu et al. 2021, section 4.1, where scale is alpha / r.
    """
    x = float64(x)
    kept = x if keep is None else x * float64(keep)
    return x @ float64(kernel) + scale * (kept @ float64(a)) @ float64(b)


@vjp
def lora_linear_vjp(
    x: ArrayLike, kernel: ArrayLike, a: ArrayLike, b: ArrayLike, scale: float, keep: ArrayLike | None = None
) -> Vjp:
    """With u = m x, z = u A and dz = scale dy B^T: dx = dy W^T + m (dz A^T), dW = x^T dy, dA = u^T dz and
    dB = scale z^T dy, the last three summed over all tokens; dm = x (dz A^T).
    """
    x, kernel, a, b = float64(x), float64(kernel), float64(a), float64(b)
    m = np.ones_like(x) if keep is None else float64(keep)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dz = scale * dy @ b.T
        du = dz @ a.T
        d_rows, dz_rows, x_rows, u_rows = (rows.reshape(-1, rows.shape[-1]) for rows in (dy, dz, x, m * x))
        dx, d_kernel = dy @ kernel.T + m * du, x_rows.T @ d_rows
        return dx, d_kernel, u_rows.T @ dz_rows, scale * (u_rows @ a).T @ d_rows, None, None if keep is None else x * du

    return lora_linear(x, kernel, a, b, scale, keep), pullback


def int8_linear(x: ArrayLike, weights: ArrayLike, scale: ArrayLike) -> Array:
    """y_f = scale_f sum_d x_d weights_df with integers [D, F] and scale [F]: [..., D] -> [..., F]; x is not rounded."""
    return float64(x) @ float64(weights) * float64(scale)


@vjp
def int8_linear_vjp(x: ArrayLike, weights: ArrayLike, scale: ArrayLike) -> Vjp:
    """dx = (dy scale) weights^T; dscale = dy (x weights), summed over all tokens. Integers have no gradient."""
    x, weights, scale = float64(x), float64(weights), float64(scale)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        d_scale = (dy * (x @ weights)).reshape(-1, dy.shape[-1]).sum(axis=0)
        return (dy * scale) @ weights.T, None, d_scale

    return int8_linear(x, weights, scale), pullback
