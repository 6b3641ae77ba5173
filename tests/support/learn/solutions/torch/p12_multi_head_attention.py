"""In PyTorch, whose linear maps take the transposed kernel."""

import torch.nn.functional as F
from p11_causal_attention import causal_attention


def split_heads(x, n_heads):
    return x.unflatten(-1, (n_heads, -1)).transpose(-3, -2)


def merge_heads(x):
    return x.transpose(-3, -2).flatten(-2)


def linear(params, x):
    return F.linear(x, params["kernel"].T, params["bias"])


def multi_head_attention(params, x, n_heads):
    q, k, v = (split_heads(linear(params[name], x), n_heads) for name in ("query", "key", "value"))
    return linear(params["output"], merge_heads(causal_attention(q, k, v)))
