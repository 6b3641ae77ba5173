"""The precision in which sums are taken."""

import jax.numpy as jnp
from jaxtyping import Float

from jaxllm.array import Array


def at_least_float32(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`x` in float32, or in float64 if it is float64: the dtype of norms, softmax and losses in every model."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
