"""Rotary positions: pairs of features of queries and keys are turned by an angle that grows with the position.

So q . k depends on how far apart two tokens are, not on where they stand (Su et al. 2021). transformers pairs feature i
with i + K/2, Meta's Llama and GGUF 2i with 2i + 1: the same mathematics on features in another order, and here the same
function. The NumPy twins are in `jaxllm.reference.rotary`.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxllm.precision import at_least_float32


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192,
) -> Array:  # fmt: skip
    """Radians a position by which each pair of features turns, base^(-2i/K): [K/2], at least float32.

    With a `factor`, Llama 3's scaling for a longer context (Grattafiori et al. 2024; meta-llama/llama-models,
    apply_scaling): what turns less than `low_frequency` times within the original context is slowed by the factor,
    what turns more than `high_frequency` times is left alone, and between them it is mixed. Su et al. 2021, section 3.
    """
    # By NumPy, in float64, while tracing: an error here is multiplied by the position.
    frequency = base ** -(np.arange(0, head_dim, 2) / head_dim)
    if factor != 1:
        turns = original_context * frequency / (2 * np.pi)
        share = np.clip((turns - low_frequency) / (high_frequency - low_frequency), 0, 1)  # that is left alone
        frequency = frequency * (share + (1 - share) / factor)
    return jnp.asarray(frequency, float)


def rotate(x: Array, positions: Array, frequencies: Array, interleaved: bool = False) -> Array:
    """Each pair (a, b) of features becomes (a cos - b sin, a sin + b cos) of angle position times frequency.

    x [..., T, K], positions [..., T] int, frequencies [K/2] -> [..., T, K] in the dtype of x. Pairs are features i and
    i + K/2, or 2i and 2i + 1 where `interleaved`. Angles are in at least float32. Su et al. 2021, equation 34.
    """
    dtype = at_least_float32(x).dtype
    pace = jnp.broadcast_to(frequencies.astype(dtype), (*positions.shape, *frequencies.shape))
    angle = positions.astype(dtype)[..., None] * pace
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pairs = (*x.shape[:-1], -1, 2) if interleaved else (*x.shape[:-1], 2, -1)
    axis = -1 if interleaved else -2
    a, b = jnp.moveaxis(x.reshape(pairs).astype(dtype), axis, 0)
    cos, sin = jnp.broadcast_to(cos, a.shape), jnp.broadcast_to(sin, a.shape)
    turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis)
    return turned.reshape(x.shape).astype(x.dtype)
