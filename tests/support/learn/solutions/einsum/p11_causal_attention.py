"""By comparing positions."""

import numpy as np
from p10_scaled_dot_product import scaled_dot_product_attention


def causal_mask(length):
    positions = np.arange(length)
    return positions[:, None] >= positions[None, :]


def causal_attention(q, k, v):
    return scaled_dot_product_attention(q, k, v, causal_mask(q.shape[-2]))
