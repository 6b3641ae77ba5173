"""Cross-entropy in nats. The NumPy twins are in `jaxllm.reference.loss`."""

import jax
import jax.numpy as jnp
from jax import Array

from jaxllm.layers import at_least_float32


def token_losses(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] per token: logits [..., V], targets [...] int -> [...], at least float32.

    A target outside 0..V-1 gives NaN, so that it is noticed.
    """
    z = at_least_float32(logits)
    z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
    targets = jnp.where(targets < 0, logits.shape[-1], targets)
    chosen = jnp.take_along_axis(z, targets[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]
    return jnp.log(jnp.exp(z).sum(-1)) - chosen


def cross_entropy(logits: Array, targets: Array, weights: Array | None = None) -> Array:
    """Mean of `token_losses`, or sum(w * loss) / sum(w) with weights [...] (0 leaves a token out) -> scalar."""
    losses = token_losses(logits, targets)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()
