"""Embeddings of tokens, n-grams and positions, and the logits of a tied table."""

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


def ngram_ids(tokens: ArrayLike, n: int, rows: int, documents: ArrayLike | None = None) -> Array:
    """The row of the n tokens that end at each position, by a hash: tokens [..., T] -> [..., T], 0 to `rows` - 1.

    Token v is the number v + 1, an absent one 0: one before the first position or of another document. The hash takes
    the numbers in their order, h <- mixed(h xor number), in 32 bits (Appleby 2011, the finaliser of MurmurHash3).
    """
    tokens = np.asarray(tokens)
    length, of_32_bits = tokens.shape[-1], np.uint64(2**32 - 1)
    rows_of = np.empty(tokens.shape, np.int32)
    for t in range(length):
        h = np.zeros(tokens.shape[:-1], np.uint64)
        for s in range(t - n + 1, t + 1):
            if s >= 0:
                number = (tokens[..., s].astype(np.int64) + 1).astype(np.uint64) & of_32_bits
                same = True if documents is None else np.asarray(documents)[..., s] == np.asarray(documents)[..., t]
                h = h ^ np.where(same, number, np.uint64(0))
            h = (h ^ (h >> np.uint64(16))) * np.uint64(0x85EBCA6B) & of_32_bits
            h = (h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE35) & of_32_bits
            h = h ^ (h >> np.uint64(16))
        rows_of[..., t] = h % np.uint64(rows)
    return rows_of


@vjp
def ngram_ids_vjp(tokens: ArrayLike, n: int, rows: int, documents: ArrayLike | None = None) -> Vjp:
    """Integers have no derivative."""
    return ngram_ids(tokens, n, rows, documents), lambda dy: (None, None, None, None)


def ngram_embedding(table: ArrayLike, tokens: ArrayLike, ngrams: int, documents: ArrayLike | None = None) -> Array:
    """The sum over n = 2 to `ngrams` of the vectors of the n-grams that end at each position: [..., T] -> [..., T, D].

    The table [(ngrams - 1) R, D] has R rows for each n. Pagnoni et al. 2024 (BLT), section 3.2.1.
    """
    parts = np.split(float64(table), ngrams - 1)
    vectors = [part[ngram_ids(tokens, n, len(part), documents)] for n, part in enumerate(parts, 2)]
    return np.sum(vectors, axis=0)


@vjp
def ngram_embedding_vjp(table: ArrayLike, tokens: ArrayLike, ngrams: int, documents: ArrayLike | None = None) -> Vjp:
    """dE of a row is the sum of dy over all places whose n-gram has that row: a scatter-add for each n."""

    def pullback(dy: Array) -> tuple[Array, None, None, None]:
        d_table = np.zeros_like(float64(table))
        for n, part in enumerate(np.split(d_table, ngrams - 1), 2):
            np.add.at(part, ngram_ids(tokens, n, len(part), documents), dy)
        return d_table, None, None, None

    return ngram_embedding(table, tokens, ngrams, documents), pullback


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
