"""Twins of `jaxllm.sampling`, in float64. A kept logit passes its gradient on, one ruled out passes none."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, sum_to, vjp
from jaxllm.reference.layers import softmax


def repetition_penalty(logits: ArrayLike, seen: ArrayLike, penalty: ArrayLike | float) -> Array:
    """Where seen: logits / penalty if positive, logits times penalty if not."""
    logits, penalty = float64(logits), float64(penalty)
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


@vjp
def repetition_penalty_vjp(logits: ArrayLike, seen: ArrayLike, penalty: ArrayLike | float) -> Vjp:
    """y = x / p: dx = dy / p, dp = - sum of dy x / p^2; y = x p: dx = dy p, dp = sum of dy x; unseen: dx = dy."""
    x, p = float64(logits), float64(penalty)

    def pullback(dy: Array) -> tuple[Array, None, Array]:
        slope = np.where(seen, np.where(x > 0, 1 / p, p), 1)
        d_penalty = np.where(seen, np.where(x > 0, -x / p**2, x), 0)
        return dy * slope, None, sum_to(dy * d_penalty, p.shape)

    return repetition_penalty(x, seen, p), pullback


def scale_temperature(logits: ArrayLike, temperature: ArrayLike | float) -> Array:
    """logits / temperature."""
    return float64(logits) / float64(temperature)


@vjp
def scale_temperature_vjp(logits: ArrayLike, temperature: ArrayLike | float) -> Vjp:
    """y = x / T: dx = dy / T, dT = - sum of dy x / T^2."""
    x, t = float64(logits), float64(temperature)
    return scale_temperature(x, t), lambda dy: (dy / t, sum_to(-dy * x / t**2, t.shape))


def top_k(logits: ArrayLike, k: int) -> Array:
    """Keep the k largest logits and their equals."""
    logits = float64(logits)
    kept = np.partition(logits, -min(k, logits.shape[-1]), axis=-1)[..., -min(k, logits.shape[-1]), None]
    return np.where(logits >= kept, logits, -np.inf)


@vjp
def top_k_vjp(logits: ArrayLike, k: int) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(top_k(logits, k))


def top_p(logits: ArrayLike, p: ArrayLike | float) -> Array:
    """Row by row: take tokens from the most likely down until they hold probability p; equals of the last stay."""
    logits = float64(logits)
    out = np.full_like(logits, -np.inf)
    for row in np.ndindex(logits.shape[:-1]):
        held, smallest = 0.0, np.inf
        probability = softmax(logits[row])
        for token in np.argsort(-logits[row]):
            if held >= float64(p):
                break
            held, smallest = held + probability[token], logits[row][token]
        kept = logits[row] >= smallest
        out[row][kept] = logits[row][kept]
    return out


@vjp
def top_p_vjp(logits: ArrayLike, p: ArrayLike | float) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(top_p(logits, p))


def min_p(logits: ArrayLike, p: ArrayLike | float) -> Array:
    """Keep tokens whose probability is at least p times the largest."""
    probability = softmax(logits)
    return np.where(probability >= float64(p) * probability.max(axis=-1, keepdims=True), float64(logits), -np.inf)


@vjp
def min_p_vjp(logits: ArrayLike, p: ArrayLike | float) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(min_p(logits, p))


def _kept_vjp(out: Array) -> Vjp:
    return out, lambda dy: (np.where(np.isneginf(out), 0, dy), None)
