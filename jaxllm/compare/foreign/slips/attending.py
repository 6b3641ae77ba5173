"""Multi-head attention in which each step can be done in another way: what slips of attention are made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.reference import attention, layers
from jaxllm.reference.arrays import Array, Params
from jaxllm.reference.rotary import rotate_heads

LOWEST = float(np.finfo(np.float64).min)


@dataclass(frozen=True)
class Attending:
    """How attention is computed; `Attending.of` is our way."""

    n_heads: int
    scale: float  # of the scores
    mask: Array | None  # [T, T] bool, True where a query may attend
    rotary: Any  # jaxllm.config.Rotary, or None
    epsilon: float  # of the norms of queries and keys
    masked: float = LOWEST  # the score where the mask is False
    after_softmax: bool = False  # whether weights are masked, and not scores
    softmax_axis: int | None = -1
    plus_one: bool = False  # whether the softmax's denominator has 1 more
    cap: float | None = None  # of the scores
    fraction: float = 1.0  # of a head's features that are rotated, the first
    whole_norms: bool = False  # whether one norm is of the features of all heads
    rotated: tuple[str, ...] = ("query", "key")
    direction: int = 1  # of the rotation
    query_shift: int = 0  # added to the positions of the queries
    rotated_first: bool = False  # whether before the norms of queries and keys
    tiled: bool = False  # whether the key heads take turns, and not follow each other
    split_by_feature: bool = False  # whether head h has the features h, h + H, ...
    split_reshaped: bool = False  # whether heads are cut without moving the axis of positions
    merge_reshaped: bool = False  # whether they are joined without moving it

    @classmethod
    def of(cls, config: Any, length: int) -> "Attending":
        """Ours, for a config without a `visible` and a `score`, and without patterns of layers."""
        mask = attention.causal_mask(length, config.sliding_window)
        scale = config.head_dim**-0.5 if config.attention_scale is None else config.attention_scale
        return cls(
            config.n_heads, scale, mask, config.rotary, config.norm_epsilon, cap=config.score_softcap,
            fraction=config.rotary_fraction, whole_norms=config.qk_norm == "whole",
        )  # fmt: skip


def attend(params: Params, x: Array, how: Attending) -> Array:
    """The attention of x [..., T, D], by queries and keys [..., H, T, K]: [..., T, D]."""
    groups = how.n_heads * np.shape(params["key"]["kernel"])[1] // np.shape(params["query"]["kernel"])[1]
    made = {}
    for name, n in (("query", how.n_heads), ("key", groups), ("value", groups)):
        y, norm = layers.linear_map(params[name], x), params.get(f"{name}_norm")
        if how.whole_norms and norm is not None:
            y, norm = layers.norm(norm, y, "rms_norm", how.epsilon), None
        made[name] = _placed(norm, _split(y, n, how), name, how)
    k, v = (_repeated(made[name], how) for name in ("key", "value"))
    scores = made["query"] @ k.swapaxes(-1, -2) * how.scale
    scores = scores if how.cap is None else how.cap * np.tanh(scores / how.cap)
    return layers.linear_map(params["output"], _merged(_weights(scores, how) @ v, how))


def _split(x: Array, n: int, how: Attending) -> Array:
    """[..., T, n K] -> [..., n, T, K]."""
    if how.split_reshaped:
        return x.reshape(*x.shape[:-2], n, x.shape[-2], x.shape[-1] // n)
    if how.split_by_feature:
        return np.moveaxis(x.reshape(*x.shape[:-1], x.shape[-1] // n, n), -1, -3)
    return attention.split_heads(x, n)


def _merged(x: Array, how: Attending) -> Array:
    """[..., H, T, K] -> [..., T, H K]."""
    heads, length, width = x.shape[-3:]
    if how.merge_reshaped:
        return x.reshape(*x.shape[:-3], length, heads * width)
    if how.split_by_feature:
        return np.moveaxis(x, -3, -1).reshape(*x.shape[:-3], length, heads * width)
    return attention.merge_heads(x)


def _placed(norm: Params | None, heads: Array, name: str, how: Attending) -> Array:
    """Queries, keys or values, normalised and rotated."""
    turned = _rotated(heads, name, how) if how.rotated_first else heads
    normed = turned if norm is None else layers.norm(norm, turned, "rms_norm", how.epsilon)
    return normed if how.rotated_first else _rotated(normed, name, how)


def _rotated(heads: Array, name: str, how: Attending) -> Array:
    if how.rotary is None or name not in how.rotated:
        return heads
    positions = how.direction * (np.arange(heads.shape[-2]) + (how.query_shift if name == "query" else 0))
    return rotate_heads(heads, how.rotary, positions, how.fraction)


def _repeated(x: Array, how: Attending) -> Array:
    """[..., G, T, K] -> [..., H, T, K]."""
    if how.tiled:
        return np.concatenate([x] * (how.n_heads // x.shape[-3]), axis=-3)
    return attention.repeat_heads(x, how.n_heads)


def _weights(scores: Array, how: Attending) -> Array:
    """Weights [..., H, T, T] of the scores."""
    visible = np.True_ if how.mask is None or how.after_softmax else how.mask
    scores = np.where(visible, scores, how.masked)
    if how.softmax_axis is None:
        return np.where(visible, scores, 0.0)
    largest = scores.max(axis=how.softmax_axis, keepdims=True)
    e = np.exp(scores - largest)
    weights = e / (e.sum(axis=how.softmax_axis, keepdims=True) + (np.exp(-largest) if how.plus_one else 0.0))
    return np.where(how.mask, weights, 0.0) if how.after_softmax and how.mask is not None else weights
