"""Embeddings of tokens and positions, and the logits of a tied table."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, float64, sum_to, vjp


def token_embedding(table: ArrayLike, tokens: ArrayLike) -> Array:
    """E[tokens]: table [V, D], tokens [...] -> [..., D], NaN for a token outside the table."""
    table, tokens = float64(table), np.asarray(tokens)
    inside = (tokens >= 0) & (tokens < len(table))
    return np.where(inside[..., None], table[np.where(inside, tokens, 0)], np.nan)


@vjp
def token_embedding_vjp(table: ArrayLike, tokens: ArrayLike) -> Vjp:
    """dE_v is the sum of dy over all places of token v: a scatter-add. Tokens outside the table add nothing."""
    table, tokens = float64(table), np.asarray(tokens)
    inside = (tokens >= 0) & (tokens < len(table))

    def pullback(dy: Array) -> tuple[Array, None]:
        d_table = np.zeros_like(table)
        np.add.at(d_table, tokens[inside], dy[inside])
        return d_table, None

    return token_embedding(table, tokens), pullback


def token_logits(table: ArrayLike, x: ArrayLike) -> Array:
    """logit_v = sum_d x_d E_vd: table [V, D], x [..., D] -> [..., V]."""
    return float64(x) @ float64(table).T


@vjp
def token_logits_vjp(table: ArrayLike, x: ArrayLike) -> Vjp:
    """dx = dy E and dE = dy^T x, summed over all tokens. A tied table adds this dE to that of the embedding."""
    table, x = float64(table), float64(x)

    def pullback(dy: Array) -> tuple[Array, Array]:
        return dy.reshape(-1, len(table)).T @ x.reshape(-1, x.shape[-1]), dy @ table

    return token_logits(table, x), pullback


def learned_positions(table: ArrayLike, length: int) -> Array:
    """The first `length` rows of the table: [C, D] -> [T, D]."""
    return float64(table)[:length]


@vjp
def learned_positions_vjp(table: ArrayLike, length: int) -> Vjp:
    """dE = dy for the rows that are used, 0 for the others."""

    def pullback(dy: Array) -> tuple[Array, None]:
        d_table = np.zeros(np.shape(table))
        d_table[:length] = dy
        return d_table, None

    return learned_positions(table, length), pullback


def sinusoidal_embedding(positions: ArrayLike, d_model: int) -> Array:
    """P[t, 2i] = sin(t / 10000^(2i/D)) and P[t, 2i+1] = cos(t / 10000^(2i/D)): positions [...] -> [..., D].

    Vaswani et al. 2017, section 3.5.
    """
    t = float64(positions)
    table = np.full((*t.shape, d_model), np.nan)
    for i in range(d_model // 2):
        angle = t / 10000 ** (2 * i / d_model)
        table[..., 2 * i], table[..., 2 * i + 1] = np.sin(angle), np.cos(angle)
    return table


@vjp
def sinusoidal_embedding_vjp(positions: ArrayLike, d_model: int) -> Vjp:
    """Positions are integers and have no derivative."""
    return sinusoidal_embedding(positions, d_model), lambda dy: (None, None)


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """The sinusoidal embeddings [T, D] of the positions 0 to `length` - 1."""
    return sinusoidal_embedding(np.arange(length), d_model)


@vjp
def sinusoidal_positions_vjp(length: int, d_model: int) -> Vjp:
    """Lengths have no derivative."""
    return sinusoidal_positions(length, d_model), lambda dy: (None, None)


def position_embedding(params: Params, x: ArrayLike, kind: Any = "learned") -> Array:
    """Twin of the module `PositionEmbedding`: x + P. A user's twin is used by its `function`."""
    x = float64(x)
    length, d_model = x.shape[-2:]
    if kind == "learned":
        return x + learned_positions(params["table"], length)
    if kind == "sinusoidal":
        return x + sinusoidal_positions(length, d_model)
    return x + float64(kind.function(np.arange(length), d_model))


@vjp
def position_embedding_vjp(params: Params, x: ArrayLike, kind: Any = "learned") -> Vjp:
    """y = x + P with the same P for each row of the batch: dx = dy, and dP is the sum of dy over the batch."""
    x = float64(x)

    def pullback(dy: Array) -> tuple[Params, Array, None]:
        if kind != "learned":
            return {}, dy, None
        _, table_back = learned_positions_vjp(params["table"], x.shape[-2])
        return {"table": table_back(sum_to(dy, x.shape[-2:]))[0]}, dy, None

    return position_embedding(params, x, kind), pullback
