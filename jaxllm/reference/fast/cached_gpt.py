"""Twins of `jaxllm.fast.cached_gpt`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp
from jaxllm.reference.attention import repeat_heads_vjp, scaled_dot_product_attention_vjp


def grouped_attention(q: ArrayLike, keys: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Array:
    """Each key and value head repeated for the query heads that it serves; the mask is that of all heads."""
    return grouped_attention_vjp(q, keys, values, mask)[0]


@vjp
def grouped_attention_vjp(q: ArrayLike, keys: ArrayLike, values: ArrayLike, mask: ArrayLike) -> Vjp:
    """A key or value head gathers what the query heads that it serves send back."""
    n_heads = np.shape(q)[-3]
    k, key_back = repeat_heads_vjp(float64(keys).swapaxes(-1, -2), n_heads)
    v, value_back = repeat_heads_vjp(values, n_heads)
    out, back = scaled_dot_product_attention_vjp(q, k, v, np.asarray(mask)[..., None, :, :])

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dq, dk, dv, *_ = back(dy)
        return dq, key_back(dk)[0].swapaxes(-1, -2), value_back(dv)[0], None

    return out, pullback
