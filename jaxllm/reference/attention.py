"""Twins of `jaxllm.attention`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.layers import Array, Params, dropout, float64, linear, softmax


def simple_attention(x: ArrayLike) -> Array:
    """softmax(x x^T) x."""
    x = float64(x)
    return softmax(x @ x.swapaxes(-1, -2)) @ x


def causal_mask(length: int) -> Array:
    """True where s <= t."""
    t, s = np.indices((length, length))
    return s <= t


def attention_weights(q: ArrayLike, k: ArrayLike, mask: ArrayLike | None = None) -> Array:
    """softmax(q k^T / sqrt(K)), masked scores at the lowest number there is."""
    q, k = float64(q), float64(k)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, np.finfo(np.float64).min)
    return softmax(scores)


def scaled_dot_product_attention(
    q: ArrayLike, k: ArrayLike, v: ArrayLike, mask: ArrayLike | None = None, keep: ArrayLike | None = None
) -> Array:
    """softmax(q k^T / sqrt(K)) v."""
    weights = attention_weights(q, k, mask)
    return (weights if keep is None else dropout(weights, keep)) @ float64(v)


def split_heads(x: ArrayLike, n_heads: int) -> Array:
    """Head h holds the features h K to (h + 1) K."""
    return np.stack(np.split(float64(x), n_heads, axis=-1), axis=-3)


def merge_heads(x: ArrayLike) -> Array:
    """The heads' features one after the other."""
    x = float64(x)
    return np.concatenate([x[..., h, :, :] for h in range(x.shape[-3])], axis=-1)


def repeat_heads(x: ArrayLike, n_heads: int) -> Array:
    """Query head h is served by key head h G // H."""
    x = float64(x)
    groups = x.shape[-3]
    return np.stack([x[..., h * groups // n_heads, :, :] for h in range(n_heads)], axis=-3)


def self_attention(
    params: Params, x: ArrayLike, context: ArrayLike | None = None, mask: ArrayLike | None = None
) -> Array:
    """Twin of the module `SelfAttention`."""
    context = x if context is None else context
    q, k, v = (linear(source, **params[name]) for source, name in ((x, "query"), (context, "key"), (context, "value")))
    return scaled_dot_product_attention(q, k, v, mask)


def causal_attention(params: Params, x: ArrayLike) -> Array:
    """Twin of the module `CausalAttention`."""
    return self_attention(params, x, mask=causal_mask(np.shape(x)[-2]))


def multi_head_attention(
    params: Params,
    x: ArrayLike,
    n_heads: int,
    n_kv_heads: int | None = None,
    context: ArrayLike | None = None,
    causal: bool = True,
    seen: dict[str, Array] | None = None,
) -> Array:
    """Twin of the module `MultiHeadAttention`; `seen` is filled with the intermediates."""
    context = x if context is None else context
    seen = {} if seen is None else seen
    seen["query"] = linear(x, **params["query"])
    seen["key"] = linear(context, **params["key"])
    seen["value"] = linear(context, **params["value"])

    q = split_heads(seen["query"], n_heads)
    k = repeat_heads(split_heads(seen["key"], n_kv_heads or n_heads), n_heads)
    v = repeat_heads(split_heads(seen["value"], n_kv_heads or n_heads), n_heads)
    mask = causal_mask(q.shape[-2]) if causal else None
    seen["weights"] = attention_weights(q, k, mask)
    return linear(merge_heads(seen["weights"] @ v), **params["output"])
