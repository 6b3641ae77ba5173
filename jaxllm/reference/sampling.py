"""Twins of `jaxllm.sampling`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.layers import Array, float64, softmax


def scale_temperature(logits: ArrayLike, temperature: ArrayLike | float) -> Array:
    """logits / temperature."""
    return float64(logits) / float64(temperature)


def top_k(logits: ArrayLike, k: int) -> Array:
    """Keep the k largest logits and their equals."""
    logits = float64(logits)
    kept = np.partition(logits, -min(k, logits.shape[-1]), axis=-1)[..., -min(k, logits.shape[-1]), None]
    return np.where(logits >= kept, logits, -np.inf)


def top_p(logits: ArrayLike, p: float) -> Array:
    """Row by row: take tokens from the most likely down until they hold probability p; equals of the last stay."""
    logits = float64(logits)
    out = np.full_like(logits, -np.inf)
    for row in np.ndindex(logits.shape[:-1]):
        held, smallest = 0.0, np.inf
        probability = softmax(logits[row])
        for token in np.argsort(-logits[row]):
            if held >= p:
                break
            held, smallest = held + probability[token], logits[row][token]
        kept = logits[row] >= smallest
        out[row][kept] = logits[row][kept]
    return out


def min_p(logits: ArrayLike, p: float) -> Array:
    """Keep tokens whose probability is at least p times the largest."""
    probability = softmax(logits)
    return np.where(probability >= p * probability.max(axis=-1, keepdims=True), float64(logits), -np.inf)
