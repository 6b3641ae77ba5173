"""Head by head."""

import numpy as np
from p11_causal_attention import causal_attention


def split_heads(x, n_heads):
    width = x.shape[-1] // n_heads
    out = np.zeros((*x.shape[:-2], n_heads, x.shape[-2], width))
    for h in range(n_heads):
        for k in range(width):
            out[..., h, :, k] = x[..., h * width + k]
    return out


def merge_heads(x):
    n_heads, length, width = x.shape[-3:]
    out = np.zeros((*x.shape[:-3], length, n_heads * width))
    for h in range(n_heads):
        for k in range(width):
            out[..., h * width + k] = x[..., h, :, k]
    return out


def linear(params, x):
    out = np.zeros((*x.shape[:-1], len(params["bias"])))
    for f in range(out.shape[-1]):
        out[..., f] = (x * params["kernel"][:, f]).sum(-1) + params["bias"][f]
    return out


def multi_head_attention(params, x, n_heads):
    width = x.shape[-1] // n_heads
    q, k, v = (linear(params[name], x) for name in ("query", "key", "value"))
    out = np.zeros(q.shape)
    for h in range(n_heads):
        part = slice(h * width, (h + 1) * width)
        out[..., part] = causal_attention(q[..., part], k[..., part], v[..., part])
    return linear(params["output"], out)
