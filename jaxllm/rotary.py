"""Rotary positions: pairs of features of queries and keys are rotated by an angle that grows with the position.

Then q . k depends on the distance between two tokens and not on their positions (Su et al. 2021). Weights of
transformers pair feature i with i + K/2, Meta's Llama and GGUF 2i with 2i + 1: the same mathematics with features in
another order. The NumPy twins are in `jaxllm.reference.rotary`.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.config import Rotary
from jaxllm.config_rules import rotated_width
from jaxllm.precision import at_least_float32


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192,
) -> Float[Array, "{head_dim}//2"]:  # fmt: skip
    """Radians per position by which each pair of features is rotated, base^(-2i/K), in at least float32.

    A `factor` scales them for a longer context, as Llama 3 does (Grattafiori et al. 2024; meta-llama/llama-models,
    apply_scaling): frequencies with fewer than `low_frequency` turns within the original context are divided by the
    factor, those with more than `high_frequency` turns are unchanged, and those between are mixed. Su et al. 2021,
    section 3.
    """
    # Computed by NumPy in float64 while tracing, because an error here is multiplied by the position.
    frequency = base ** -(np.arange(0, head_dim, 2) / head_dim)
    if factor != 1:
        turns = original_context * frequency / (2 * np.pi)
        share = np.clip((turns - low_frequency) / (high_frequency - low_frequency), 0, 1)  # of the unchanged frequency
        frequency = frequency * (share + (1 - share) / factor)
    return jnp.asarray(frequency, float)


def rotate(
    x: Float[Array, "*batch T K"], positions: Int[Array, "*#batch T"], frequencies: Float[Array, "K//2"],
    interleaved: bool = False,
) -> Float[Array, "*batch T K"]:  # fmt: skip
    """Each pair (a, b) of features becomes (a cos - b sin, a sin + b cos) of angle position times frequency.

    In the dtype of x, with angles in at least float32. Pairs are features i and i + K/2, or 2i and 2i + 1 if
    `interleaved`. Su et al. 2021, equation 34.
    """
    dtype = at_least_float32(x).dtype
    angle = positions.astype(dtype)[..., None] * frequencies.astype(dtype)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    pairs = (*x.shape[:-1], -1, 2) if interleaved else (*x.shape[:-1], 2, -1)
    axis = -1 if interleaved else -2
    a, b = jnp.moveaxis(x.reshape(pairs).astype(dtype), axis, 0)
    rotated = jnp.stack([a * cos - b * sin, a * sin + b * cos], axis)
    return rotated.reshape(x.shape).astype(x.dtype)


def rotate_heads(
    x: Float[Array, "*batch H T K"], rotary: Rotary, positions: Int[Array, "*batch T"] | None = None,
    fraction: float = 1.0,
) -> Float[Array, "*batch H T K"]:  # fmt: skip
    """Queries or keys, rotated by the positions of their tokens, which are 0 to T - 1 if not given.

    Of each head the first `fraction` of the features is rotated, as if the head were that wide; the others pass
    unchanged (Black et al. 2022, GPT-NeoX-20B, section 2.1.1).
    """
    base, interleaved, factor, low, high, original_context = rotary
    width = rotated_width(x.shape[-1], fraction)
    places = jnp.arange(x.shape[-2]) if positions is None else positions[..., None, :]  # the same for all heads
    frequencies = rotary_frequencies(width, base, factor, low, high, original_context)
    turned = rotate(x[..., :width], places, frequencies, interleaved)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], axis=-1)
