"""Functions of `jaxllm.lora` whose backward keeps no more than a frozen kernel needs. Reverse-mode derivatives only.

The gradient of x needs the kernel, and the gradient of the kernel needs x. Where the kernel is not differentiated, x is
not kept for it. A kernel is kept in the dtype in which it is stored, and cast again in the backward.
"""

from typing import Any

import jax
from jax.lax import optimization_barrier
from jaxtyping import Float, Int8

from jaxllm.array import Array, StoredKernel
from jaxllm.fast.layers import linear
from jaxllm.fast.products import product
from jaxllm.fast.quantised_weights import Kernel
from jaxllm.layers import dropout


def lora_linear(
    x: Float[Array, "*batch D"], kernel: Float[Kernel, "D F"], a: Float[Array, "D r"], b: Float[Array, "r F"],
    scale: float, keep: Float[Array, "*batch D"] | None = None,
) -> Float[Array, "*batch F"]:  # fmt: skip
    """`jaxllm.lora.lora_linear`; the scale multiplies the r features of x A, not the F of the result."""
    base = x @ kernel.astype(x.dtype) if isinstance(kernel, StoredKernel) else _stored_product(x, kernel)
    low = linear(x if keep is None else dropout(x, keep), a)
    # Without the barrier XLA adds the two again in each loop that reads the sum, and keeps both for the backward.
    return optimization_barrier(base + linear(scale * low, b))


def int8_linear(
    x: Float[Array, "*batch D"], weights: Int8[Array, "D F"], scale: Float[Array, "F"]
) -> Float[Array, "*batch F"]:
    """`jaxllm.lora.int8_linear`; between forward and backward the weights are kept in int8."""
    return _stored_product(x, weights) * scale.astype(x.dtype)


@jax.custom_vjp
def _stored_product(x: Array, kernel: Array) -> Array:
    return x @ kernel.astype(x.dtype)


def _stored_product_forward(x: Any, kernel: Any) -> tuple[Array, tuple[Array | None, Array]]:
    y = product("...d,df->...f", x.value, kernel.value.astype(x.value.dtype))
    return y, (x.value if kernel.perturbed else None, kernel.value)


def _stored_product_backward(saved: tuple[Array | None, Array], dy: Array) -> tuple[Array, Array | None]:
    # Without the barrier XLA keeps the cast of the forward for the backward.
    (x, kernel), dy = optimization_barrier((saved, dy))
    dx = product("...f,df->...d", dy, kernel.astype(dy.dtype))
    return dx, None if x is None else product("...d,...f->df", x, dy).astype(kernel.dtype)


_stored_product.defvjp(_stored_product_forward, _stored_product_backward, symbolic_zeros=True)
