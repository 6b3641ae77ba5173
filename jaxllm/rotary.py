"""Rotary positions: pairs of features of queries and keys are rotated by an angle that grows with the position.

Then q . k depends on the distance between two tokens and not on their positions (Su et al. 2021). Weights of
transformers pair feature i with i + K/2, Meta's Llama and GGUF 2i with 2i + 1: the same mathematics with features in
another order. The NumPy twins are in `jaxllm.reference.rotary`.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.config import Rotary
from jaxllm.config_rules import rotated_width
from jaxllm.precision import at_least_float32


def rotary_frequencies(
    head_dim: int, base: float = 10000.0, factor: float = 1.0, low_frequency: float = 1.0, high_frequency: float = 4.0,
    original_context: int = 8192, scaling: str = "llama3", truncate: bool = True,
) -> Float[Array, "{head_dim}//2"]:  # fmt: skip
    """Radians per position by which each pair of features is rotated, base^(-2i/K), in at least float32.

    A `factor` scales them for a longer context. "linear" divides all by the factor (Chen et al. 2023). The others
    divide by it the frequencies with fewer than `low_frequency` turns within the original context, leave those with
    more than `high_frequency` turns unchanged, and mix between: "llama3" evenly in the turns (Grattafiori et al. 2024;
    meta-llama/llama-models, apply_scaling), "yarn" evenly in the pairs (`_yarn_shares`). Su et al. 2021, section 3.
    """
    # Computed by NumPy in float64 while tracing, because an error here is multiplied by the position.
    frequency = base ** -(np.arange(0, head_dim, 2) / head_dim)
    if factor != 1:
        if scaling == "linear":
            share = np.zeros_like(frequency)  # of the unchanged frequency
        elif scaling == "yarn":
            share = _yarn_shares(head_dim, base, low_frequency, high_frequency, original_context, truncate)
        else:
            turns = original_context * frequency / (2 * np.pi)
            share = np.clip((turns - low_frequency) / (high_frequency - low_frequency), 0, 1)
        frequency = frequency * (share + (1 - share) / factor)
    return jnp.asarray(frequency, float)


def _yarn_shares(
    head_dim: int, base: float, low_frequency: float, high_frequency: float, original_context: int, truncate: bool
) -> np.ndarray:
    """The share [K/2] of the unchanged frequency in each pair: 1 up to one pair, 0 from another on, a line between.

    The two are those that turn `high_frequency` and `low_frequency` times within the original context, within 0 to
    K - 1, and whole numbers if `truncate`. Peng et al. 2023, section 3.2; transformers, _compute_yarn_parameters.
    """
    first, last = (
        head_dim * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(base))
        for turns in (high_frequency, low_frequency)
    )
    if truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001  # where both are the same pair, a step
    return 1 - np.clip((np.arange(head_dim // 2) - first) / width, 0, 1)


def rotate(
    x: Float[Array, "*batch T K"], positions: Int[Array, "*#batch T"], frequencies: Float[Array, "K//2"],
    interleaved: bool = False, scale: float = 1.0,
) -> Float[Array, "*batch T K"]:  # fmt: skip
    """Each pair (a, b) of features becomes (a cos - b sin, a sin + b cos) of angle position times frequency.

    In the dtype of x, with angles in at least float32. Pairs are features i and i + K/2, or 2i and 2i + 1 if
    `interleaved`. Su et al. 2021, equation 34. The result is `scale` times as long: YaRN multiplies queries and keys by
    a factor for attention in a longer context (Peng et al. 2023, section 3.3).
    """
    dtype = at_least_float32(x).dtype
    angle = positions.astype(dtype)[..., None] * frequencies.astype(dtype)
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
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
    base, interleaved, factor, low, high, original_context, scaling, truncate, scale = rotary
    width = rotated_width(x.shape[-1], fraction)
    places = jnp.arange(x.shape[-2]) if positions is None else positions[..., None, :]  # the same for all heads
    frequencies = rotary_frequencies(width, base, factor, low, high, original_context, scaling, truncate)
    turned = rotate(x[..., :width], places, frequencies, interleaved, scale)
    return turned if width == x.shape[-1] else jnp.concatenate([turned, x[..., width:]], axis=-1)
