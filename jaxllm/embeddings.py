"""Tokens and positions as vectors. The NumPy twins are in `jaxllm.reference.embeddings`."""

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import normal
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.fast import has_fast_form
from jaxllm.fast.quantised_weights import Table, parameter
from jaxllm.layers import INIT_STD
from jaxllm.precision import at_least_float32
from jaxllm.utils.ideas import Idea


def token_embedding(table: Float[Table, "V D"], tokens: Int[Array, "*batch"]) -> Float[Array, "*batch D"]:
    """table[tokens]; a token outside 0..V-1 gives NaN, where plain indexing would return another row."""
    return table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


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
