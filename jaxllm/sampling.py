"""Which tokens may come next, as pure functions of logits; an excluded token gets -inf.

The draw itself is `jaxllm.generate.draw`. The NumPy twins are in `jaxllm.reference.sampling`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxllm.array import Array
from jaxllm.precision import at_least_float32

FEW = 1024  # most likely tokens, which `top_p` tries first
Logits = Float[Array, "*batch V"]
Number = Float[Array, ""] | float | int


def repetition_penalty(logits: Logits, seen: Bool[Array, "*batch V"], penalty: Number) -> Logits:
    """Logits of tokens that the text has `seen`, divided by the penalty, or multiplied by it if they are negative.

    penalty > 0; above 1 these tokens become less likely. Keskar et al. 2019, section 4.1, with negative logits as in
    transformers.
    """
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def scale_temperature(logits: Logits, temperature: Number) -> Logits:
    """logits / temperature: below 1 sharper, above 1 flatter. temperature > 0."""
    return logits / temperature


def top_k(logits: Logits, k: int) -> Logits:
    """Keep the k largest logits (and any equal to the k-th). Fan et al. 2018. k >= 1."""
    kth = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits >= kth, logits, -jnp.inf)


def top_p(logits: Logits, p: Number) -> Logits:
    """Keep the fewest most likely tokens that together reach probability p. Holtzman et al. 2020. 0 < p <= 1.

    A token stays while the probability of those before it is below p; so the most likely one always stays.
    """
    exact = at_least_float32(logits)
    peak = exact.max(-1, keepdims=True)
    total = jnp.exp(exact - peak).sum(-1, keepdims=True)

    def smallest(n: int) -> tuple[Array, Array]:
        """The smallest logit that stays if it is among the n largest, and whether it is certain to be."""
        likely = jax.lax.top_k(exact, n)[0]
        probability = jnp.exp(likely - peak) / total
        reached = jnp.cumsum(probability, axis=-1)
        least = jnp.where(reached - probability < p, likely, jnp.inf).min(-1, keepdims=True)
        return least, (reached[..., -1] >= p).all()

    if logits.shape[-1] <= FEW:
        least = smallest(logits.shape[-1])[0]
    else:  # so many nearly always reach p, and sorting a large vocabulary is slow
        least, found = smallest(FEW)
        least = jax.lax.cond(found, lambda: least, lambda: smallest(logits.shape[-1])[0])
    return jnp.where(exact >= least, logits, -jnp.inf)


def min_p(logits: Logits, p: Number) -> Logits:
    """Keep tokens at least p times as likely as the most likely one. Nguyen et al. 2024. 0 <= p <= 1."""
    return jnp.where(logits - logits.max(-1, keepdims=True) >= jnp.log(p), logits, -jnp.inf)
