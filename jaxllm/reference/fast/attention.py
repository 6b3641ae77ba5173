"""Twin of `jaxllm.fast.attention`, in float64: what it computes is attention under the causal mask, however cut up."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, vjp
from jaxllm.reference.attention import (
    causal_mask,
    document_mask,
    scaled_dot_product_attention,
    scaled_dot_product_attention_vjp,
)


def _mask(q: ArrayLike, documents: ArrayLike | None, window: int | None) -> Array:
    return causal_mask(np.shape(q)[-2], window) if documents is None else document_mask(documents, window)


def causal_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, documents: ArrayLike | None = None, window: int | None = None
) -> Array:
    """softmax(q k^T / sqrt(K)) v where s <= t and, with `documents`, those of s and t are equal."""
    return scaled_dot_product_attention(q, k, v, _mask(q, documents, window))


@vjp
def causal_attention_vjp(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, documents: ArrayLike | None = None, window: int | None = None
) -> Vjp:
    """As under any mask."""
    out, back = scaled_dot_product_attention_vjp(q, k, v, _mask(q, documents, window))
    return out, lambda dy: (*back(dy)[:3], None, None)
