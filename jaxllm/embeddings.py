"""Tokens, n-grams and positions as vectors. The NumPy twins are in `jaxllm.reference.embeddings`."""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import normal
from jaxtyping import Float, Int, Int32

from jaxllm.array import Array
from jaxllm.fast import has_fast_form
from jaxllm.fast.quantised_weights import Table, parameter
from jaxllm.layers import INIT_STD
from jaxllm.precision import at_least_float32
from jaxllm.utils.ideas import Idea


def token_embedding(table: Float[Table, "V D"], tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """table[tokens]; a token outside 0..V-1 gives NaN, where plain indexing would return another row."""
    return table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def ngram_ids(
    tokens: Int[Array, "*batch T"], n: int, rows: int, documents: Int[Array, "*batch T"] | None = None
) -> Int32[Array, "*batch T"]:
    """The row, 0 to `rows` - 1, of the n-gram that ends at each position: a hash of its n tokens modulo `rows`.

    Token v counts as v + 1. 0 stands for a token that is absent: before the first position, or of another document than
    the last of the n. Each token is mixed in by the finaliser of MurmurHash3 (Appleby 2011), and each of these steps is
    invertible. N-grams share a row by the modulo and, with large vocabularies, because a hash has only 32 bits.
    """
    words = tokens.astype(jnp.uint32) + 1
    h = jnp.zeros_like(words)
    for back in reversed(range(n)):
        word = _earlier(words, back)
        h = h ^ (word if documents is None else jnp.where(_earlier(documents, back) == documents, word, 0))
        h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
        h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
        h = h ^ (h >> 16)
    return (h % jnp.uint32(rows)).astype(jnp.int32)


def _earlier(x: Array, back: int) -> Array:
    """What stands `back` positions before each, 0 before the first."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(back, 0)])[..., : x.shape[-1]]


def ngram_embedding(
    table: Float[Array, "rows D"], tokens: Int[Array, "*batch T"], ngrams: int,
    documents: Int[Array, "*batch T"] | None = None,
) -> Float[Array, "*batch T D"]:  # fmt: skip
    """The sum of the vectors of the n-grams that end at each position, of 2 to `ngrams` tokens (`ngram_ids`).

    The table has one part of equal size for each n. Pagnoni et al. 2024 (BLT), section 3.2.1, with bytes as tokens;
    Huang et al. 2025 (Over-Tokenized Transformer); with n = 2, the bigram hash embedding of modded-nanogpt.
    """
    rows = len(table) // (ngrams - 1)
    ids = [(n - 2) * rows + ngram_ids(tokens, n, rows, documents) for n in range(2, ngrams + 1)]
    return token_embedding(table, jnp.stack(ids, axis=-1)).sum(-2)


@has_fast_form
def token_logits(table: Float[Table, "V D"], x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
    """x E^T, the output head that shares the token table, in at least float32. Press and Wolf 2017."""
    z = at_least_float32(x)
    return z @ table.astype(x.dtype).astype(z.dtype).T


def learned_positions(table: Float[Array, "context D"], length: int) -> Float[Array, "{length} D"]:
    """The first `length` rows of a learned table."""
    return table[:length]


def sinusoidal_embedding(positions: Int[Array, "*batch"], d_model: int) -> Float[Array, "*batch {d_model}"]:
    """P[t, 2i] = sin(t / 10000^(2i/D)), P[t, 2i+1] = cos(the same), in at least float32. D must be even.

    Vaswani et al. 2017, section 3.5.
    """
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(0, d_model, 2) / d_model)
    angle = positions.astype(float)[..., None] * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*positions.shape, d_model)


def sinusoidal_positions(length: int, d_model: int) -> Float[Array, "{length} {d_model}"]:
    """`sinusoidal_embedding` of 0 to length - 1."""
    return sinusoidal_embedding(jnp.arange(length), d_model)


class TokenEmbedding(nn.Module):
    """Parameter of `token_embedding` and `token_logits`: table [V, D] normal(INIT_STD)."""

    vocab_size: int
    d_model: int

    def setup(self) -> None:
        self.table = parameter(self, "table", normal(INIT_STD), (self.vocab_size, self.d_model))

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
        return token_embedding(self.table, tokens)

    def logits(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch V"]:
        """The tied output head."""
        return token_logits(self.table, x)


class NgramEmbedding(nn.Module):
    """Adds `ngram_embedding` (parameter: table [(ngrams - 1) rows, D] normal(INIT_STD)).

    Tokens and documents may have more columns than x: those of earlier tokens, which are read as parts of n-grams only.
    """

    ngrams: int
    rows: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], tokens: Int[Array, "B S"], documents: Int[Array, "B S"] | None = None
    ) -> Float[Array, "B T D"]:
        length, d_model = x.shape[-2:]
        table = self.param("table", normal(INIT_STD), ((self.ngrams - 1) * self.rows, d_model))
        return x + ngram_embedding(table, tokens, self.ngrams, documents)[:, -length:]


class PositionEmbedding(nn.Module):
    """Adds `learned_positions` (parameter: table [context_length, D] normal(INIT_STD)) or `sinusoidal_positions`.

    A function of the signature of `sinusoidal_embedding` may take its place. The positions are 0 to T - 1, unless they
    are given.
    """

    context_length: int
    kind: str | Idea = "learned"

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch T D"], positions: Int[Array, "*rows T"] | None = None
    ) -> Float[Array, "*batch T D"]:
        length, d_model = x.shape[-2:]
        if self.kind == "learned":
            table = self.param("table", normal(INIT_STD), (self.context_length, d_model))
            vectors = learned_positions(table, length) if positions is None else token_embedding(table, positions)
        elif isinstance(self.kind, Idea):
            vectors = self.kind(jnp.arange(length) if positions is None else positions, d_model)
        elif positions is None:
            vectors = sinusoidal_positions(length, d_model)
        else:
            vectors = sinusoidal_embedding(positions, d_model)
        return x + vectors.astype(x.dtype)
