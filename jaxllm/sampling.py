"""Which tokens may come next, as pure functions of logits [..., V]; a ruled-out token gets -inf.

Small functions that compose, as in gemma's sampler but without classes: the draw itself is
`jax.random.categorical` in `jaxllm.generate`. The NumPy twins are in `jaxllm.reference.sampling`.
"""

import jax.numpy as jnp
from jax import Array

from jaxllm.layers import softmax


def scale_temperature(logits: Array, temperature: Array | float) -> Array:
    """logits / temperature: below 1 sharper, above 1 flatter. temperature > 0."""
    return logits / temperature


def top_k(logits: Array, k: int) -> Array:
    """Keep the k largest logits (and any equal to the k-th). Fan et al. 2018. k >= 1."""
    kth = jnp.sort(logits, axis=-1)[..., -min(k, logits.shape[-1]), None]
    return jnp.where(logits >= kth, logits, -jnp.inf)


def top_p(logits: Array, p: float) -> Array:
    """Keep the fewest most likely tokens that together reach probability p. Holtzman et al. 2020. 0 < p <= 1.

    A token stays while the probability of those before it is below p; so the most likely one always does.
    """
    descending = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
    probability = softmax(descending)
    before = jnp.cumsum(probability, axis=-1) - probability
    smallest = jnp.where(before < p, descending, jnp.inf).min(-1, keepdims=True)
    return jnp.where(logits >= smallest, logits, -jnp.inf)


def min_p(logits: Array, p: float) -> Array:
    """Keep tokens at least p times as likely as the most likely one. Nguyen et al. 2024. 0 <= p <= 1."""
    return jnp.where(logits - logits.max(-1, keepdims=True) >= jnp.log(p), logits, -jnp.inf)
