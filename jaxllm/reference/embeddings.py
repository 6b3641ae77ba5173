"""Twins of `jaxllm.embeddings`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.layers import Array, Params, float64


def token_embedding(table: ArrayLike, tokens: ArrayLike) -> Array:
    """Row tokens[...] of the table, NaN for a token outside it."""
    table, tokens = float64(table), np.asarray(tokens)
    inside = (tokens >= 0) & (tokens < len(table))
    return np.where(inside[..., None], table[np.where(inside, tokens, 0)], np.nan)


def token_logits(table: ArrayLike, x: ArrayLike) -> Array:
    """logit_v = sum_d x_d E_vd."""
    return float64(x) @ float64(table).T


def learned_positions(table: ArrayLike, length: int) -> Array:
    """The first rows of the table."""
    return float64(table)[:length]


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """P[t, 2i] = sin(t / 10000^(2i/D)), P[t, 2i+1] = cos(t / 10000^(2i/D))."""
    table = np.empty((length, d_model))
    for t in range(length):
        for i in range(d_model // 2):
            angle = t / 10000 ** (2 * i / d_model)
            table[t, 2 * i], table[t, 2 * i + 1] = np.sin(angle), np.cos(angle)
    return table


def position_embedding(params: Params, x: ArrayLike, kind: str = "learned") -> Array:
    """Twin of the module `PositionEmbedding`."""
    x = float64(x)
    length, d_model = x.shape[-2:]
    if kind == "learned":
        return x + learned_positions(params["table"], length)
    return x + sinusoidal_positions(length, d_model)
