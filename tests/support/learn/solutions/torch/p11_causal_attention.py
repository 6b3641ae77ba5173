"""In PyTorch."""

import torch
import torch.nn.functional as F


def causal_mask(length):
    return torch.ones(length, length, dtype=torch.bool).tril()


def causal_attention(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)
