"""Tokens and positions as vectors. The NumPy twins are in `jaxllm.reference.embeddings`."""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from jaxllm.init import normal
from jaxllm.layers import INIT_STD, at_least_float32


def token_embedding(table: Array, tokens: Array) -> Array:
    """Row `tokens[...]` of the table: table [V, D], tokens [...] int -> [..., D].

    A token outside 0..V-1 gives NaN, so that it is noticed (plain indexing would use another row).
    """
    inside = jnp.where(tokens < 0, table.shape[0], tokens)
    return jnp.take(table, inside, axis=0, mode="fill", fill_value=jnp.nan)


def token_logits(table: Array, x: Array) -> Array:
    """x E^T, the output head that shares the token table: table [V, D], x [..., D] -> [..., V].

    At least float32, accumulated there too. Press and Wolf 2017.
    """
    dtype = at_least_float32(x).dtype
    return jnp.matmul(x, table.astype(x.dtype).T, preferred_element_type=dtype)


def learned_positions(table: Array, length: int) -> Array:
    """The first `length` rows of a learned table: [context_length, D] -> [length, D]."""
    return table[:length]


def sinusoidal_positions(length: int, d_model: int) -> Array:
    """P[t, 2i] = sin(t / 10000^(2i/D)), P[t, 2i+1] = cos(the same): [length, D], at least float32.

    Vaswani et al. 2017, section 3.5. D must be even.
    """
    position = jnp.arange(length, dtype=float)[:, None]
    frequency = jnp.exp(-jnp.log(10000.0) * jnp.arange(0, d_model, 2) / d_model)[None, :]
    angle = position * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, d_model)


class TokenEmbedding(nn.Module):
    """Parameter of `token_embedding` and `token_logits`: table [V, D] normal(0.02)."""

    vocab_size: int
    d_model: int

    def setup(self) -> None:
        shape = (self.vocab_size, self.d_model)
        self.table = self.param("table", normal(INIT_STD), shape)

    def __call__(self, tokens: Array) -> Array:
        return token_embedding(self.table, tokens)

    def logits(self, x: Array) -> Array:
        """The tied output head."""
        return token_logits(self.table, x)


class PositionEmbedding(nn.Module):
    """Adds `learned_positions` (parameter: table [context_length, D] normal(0.02)) or `sinusoidal_positions`."""

    context_length: int
    kind: str = "learned"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        length, d_model = x.shape[-2:]
        if self.kind == "learned":
            shape = (self.context_length, d_model)
            table = self.param("table", normal(INIT_STD), shape)
            positions = learned_positions(table, length)
        else:
            positions = sinusoidal_positions(length, d_model)
        return x + jnp.broadcast_to(positions.astype(x.dtype), x.shape)
