"""Twin of `jaxllm.causal`, in float64: what it computes is attention under the causal mask, however it is cut up."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, vjp
from jaxllm.reference.attention import causal_mask, scaled_dot_product_attention, scaled_dot_product_attention_vjp


def causal_attention(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Array:
    """softmax(q k^T / sqrt(K)) v where s <= t."""
    return scaled_dot_product_attention(q, k, v, causal_mask(np.shape(q)[-2]))


@vjp
def causal_attention_vjp(q: ArrayLike, k: ArrayLike, v: ArrayLike) -> Vjp:
    """As under any mask."""
    out, back = scaled_dot_product_attention_vjp(q, k, v, causal_mask(np.shape(q)[-2]))
    return out, lambda dy: back(dy)[:3]
