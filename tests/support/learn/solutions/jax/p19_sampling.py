import jax
import jax.numpy as jnp


def next_token_probabilities(logits, temperature, top_k=None):
    if temperature == 0:
        return jax.nn.one_hot(jnp.argmax(logits), len(logits), dtype=logits.dtype)
    scaled = logits / temperature
    if top_k is not None:
        threshold = jax.lax.top_k(scaled, min(top_k, len(scaled)))[0][-1]
        scaled = jnp.where(scaled >= threshold, scaled, -jnp.inf)
    return jax.nn.softmax(scaled)


def sample(probabilities, u):
    return int(jnp.searchsorted(jnp.cumsum(probabilities), u, side="right"))
