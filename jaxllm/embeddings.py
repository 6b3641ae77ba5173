"""Tokens and positions as vectors. The NumPy twins are in `jaxllm.reference.embeddings`."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxllm.fast.init import normal
from jaxllm.fast.quantised_weights import PackedTable, parameter
from jaxllm.layers import INIT_STD
from jaxllm.precision import at_least_float32


def token_embedding(table: Array, tokens: Array) -> Array:
    """Row `tokens[...]` of the table: table [V, D], tokens [...] int -> [..., D].

    A token outside 0..V-1 gives NaN, so that it is noticed (plain indexing would use another row).
    """
    return table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def token_logits(table: Array, x: Array) -> Array:
    """x E^T, the output head that shares the token table: table [V, D], x [..., D] -> [..., V].

    At least float32, accumulated there too. Press and Wolf 2017.
    """
    dtype = at_least_float32(x).dtype
    if isinstance(table, PackedTable):
        return (x @ table.T.astype(x.dtype)).astype(dtype)
    return jnp.einsum("...d,vd->...v", x, table.astype(x.dtype), preferred_element_type=dtype)


def learned_positions(table: Array, length: int) -> Array:
    """The first `length` rows of a learned table: [context_length, D] -> [length, D]."""
    return table[:length]


def sinusoidal_embedding(positions: Array, d_model: int) -> Array:
    """P[t, 2i] = sin(t / 10000^(2i/D)), P[t, 2i+1] = cos(the same): positions t [...] -> [..., D], at least float32.

    Vaswani et al. 2017, section 3.5. D must be even.
    """
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(0, d_model, 2) / d_model)
    angle = positions.astype(float)[..., None] * jnp.broadcast_to(frequency, (*positions.shape, d_model // 2))
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(*positions.shape, d_model)


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """`sinusoidal_embedding` of 0 to length - 1: [length, D]."""
    return sinusoidal_embedding(jnp.arange(length), d_model)


class TokenEmbedding(nn.Module):
    """Parameter of `token_embedding` and `token_logits`: table [V, D] normal(0.02)."""

    vocab_size: int
    d_model: int

    def setup(self) -> None:
        shape = (self.vocab_size, self.d_model)
        self.table = parameter(self, "table", normal(INIT_STD), shape)

    def __call__(self, tokens: Array) -> Array:
        return token_embedding(self.table, tokens)

    def logits(self, x: Array) -> Array:
        """The tied output head."""
        return token_logits(self.table, x)


class PositionEmbedding(nn.Module):
    """Adds `learned_positions` (parameter: table [context_length, D] normal(0.02)) or `sinusoidal_positions`.

    Those of 0 to T - 1, or of `positions` [..., T].
    """

    context_length: int
    kind: str = "learned"

    @nn.compact
    def __call__(self, x: Array, positions: Array | None = None) -> Array:
        length, d_model = x.shape[-2:]
        if self.kind == "learned":
            shape = (self.context_length, d_model)
            table = self.param("table", normal(INIT_STD), shape)
            vectors = learned_positions(table, length) if positions is None else token_embedding(table, positions)
        else:
            vectors = sinusoidal_embedding(jnp.arange(length) if positions is None else positions, d_model)
        return x + jnp.broadcast_to(vectors.astype(x.dtype), x.shape)
