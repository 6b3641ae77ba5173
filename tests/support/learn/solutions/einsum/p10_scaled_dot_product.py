"""By einsum; hidden scores are lowered by a large number, and the scale is in the queries."""

import numpy as np
from p08_simple_attention import softmax


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = np.einsum("...tk,...sk->...ts", q * q.shape[-1] ** -0.5, k)
    if mask is not None:
        scores = scores - 1e9 * (1 - np.asarray(mask, float))
    return np.einsum("...ts,...sw->...tw", softmax(scores), v)
