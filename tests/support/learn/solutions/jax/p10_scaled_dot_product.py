"""In JAX."""

import jax
import jax.numpy as jnp


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = jnp.einsum("...tk,...sk->...ts", q, k) / q.shape[-1] ** 0.5
    weights = jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -jnp.inf))
    return weights @ v
