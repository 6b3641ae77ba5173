"""Which tokens may come next, as pure functions of logits [..., V]; a ruled-out token gets -inf.

Small functions that compose, as in gemma's sampler but without classes; the draw itself is `jaxllm.generate.draw`. The
NumPy twins are in `jaxllm.reference.sampling`.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.precision import at_least_float32

FEW = 1024  # of the most likely tokens, which `top_p` tries first


def repetition_penalty(logits: Array, seen: Array, penalty: Array | float) -> Array:
    """Logits of tokens that are in the text already, divided by the penalty, or times it where they are negative.

    logits [..., V], seen [..., V] bool, penalty > 0; above 1 they become less likely. Keskar et al. 2019, section 4.1,
    with the case for negative logits as in transformers.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def scale_temperature(logits: Array, temperature: Array | float) -> Array:
    """logits / temperature: below 1 sharper, above 1 flatter. temperature > 0."""
    return logits / temperature


def top_k(logits: Array, k: int) -> Array:
    """Keep the k largest logits (and any equal to the k-th). Fan et al. 2018. k >= 1."""
    kth = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits >= kth, logits, -jnp.inf)


def top_p(logits: Array, p: Array | float) -> Array:
    """Keep the fewest most likely tokens that together reach probability p. Holtzman et al. 2020. 0 < p <= 1.

    A token stays while the probability of those before it is below p; so the most likely one always does.
    """
    exact = at_least_float32(logits)
    peak = exact.max(-1, keepdims=True)
    total = jnp.exp(exact - peak).sum(-1, keepdims=True)

    def smallest(n: int) -> tuple[Array, Array]:
        """The smallest logit that stays, if it is among the n largest, and whether it surely is."""
        likely = jax.lax.top_k(exact, n)[0]
        probability = jnp.exp(likely - peak) / total
        reached = jnp.cumsum(probability, axis=-1)
        least = jnp.where(reached - probability < p, likely, jnp.inf).min(-1, keepdims=True)
        return least, (reached[..., -1] >= p).all()

    if logits.shape[-1] <= FEW:
        least = smallest(logits.shape[-1])[0]
    else:  # seldom do so few not reach p, and sorting a whole vocabulary takes as long as reading a small model
        least, found = smallest(FEW)
        least = jax.lax.cond(found, lambda: least, lambda: smallest(logits.shape[-1])[0])
    return jnp.where(exact >= least, logits, -jnp.inf)


def min_p(logits: Array, p: Array | float) -> Array:
    """Keep tokens at least p times as likely as the most likely one. Nguyen et al. 2024. 0 <= p <= 1."""
    return jnp.where(logits - logits.max(-1, keepdims=True) >= jnp.log(p), logits, -jnp.inf)
