"""By library calls."""

import numpy as np
from p10_scaled_dot_product import scaled_dot_product_attention


def causal_mask(length):
    return np.tri(length, dtype=bool)


def causal_attention(q, k, v):
    return scaled_dot_product_attention(q, k, v, causal_mask(q.shape[-2]))
