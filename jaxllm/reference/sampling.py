"""Changes of the logits before a token is drawn. A token that is ruled out has the logit -inf and no gradient."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, sum_to, vjp
from jaxllm.reference.layers import softmax


def repetition_penalty(logits: ArrayLike, seen: ArrayLike, penalty: ArrayLike | float) -> Array:
    """Where `seen`: a positive logit over the penalty, any other times the penalty. Keskar et al. 2019, section 4.1."""
    logits, penalty = float64(logits), float64(penalty)
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


@vjp
def repetition_penalty_vjp(logits: ArrayLike, seen: ArrayLike, penalty: ArrayLike | float) -> Vjp:
    """Where y = x / p: dx = dy / p, dp = -sum dy x / p^2. Where y = x p: dx = dy p, dp = sum dy x. Unseen: dx = dy."""
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
    """With y = x / T: dx = dy / T, dT = -sum dy x / T^2."""
    x, t = float64(logits), float64(temperature)
    return scale_temperature(x, t), lambda dy: (dy / t, sum_to(-dy * x / t**2, t.shape))


def top_k(logits: ArrayLike, k: int) -> Array:
    """The k largest logits and any that equal the smallest of these; all others are -inf."""
    logits = float64(logits)
    kept = np.partition(logits, -min(k, logits.shape[-1]), axis=-1)[..., -min(k, logits.shape[-1]), None]
    return np.where(logits >= kept, logits, -np.inf)


@vjp
def top_k_vjp(logits: ArrayLike, k: int) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(top_k(logits, k))


def top_p(logits: ArrayLike, p: ArrayLike | float) -> Array:
    """The most likely tokens, until their probabilities sum to p, and any that equal the last. Holtzman et al. 2020."""
    logits = float64(logits)
    out = np.full_like(logits, -np.inf)
    for row in np.ndindex(logits.shape[:-1]):
        total, smallest = 0.0, np.inf
        probability = softmax(logits[row])
        for token in np.argsort(-logits[row]):
            if total >= float64(p):
                break
            total, smallest = total + probability[token], logits[row][token]
        kept = logits[row] >= smallest
        out[row][kept] = logits[row][kept]
    return out


@vjp
def top_p_vjp(logits: ArrayLike, p: ArrayLike | float) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(top_p(logits, p))


def min_p(logits: ArrayLike, p: ArrayLike | float) -> Array:
    """The tokens whose probability is at least p times the largest; all others are -inf. Nguyen et al. 2024."""
    probability = softmax(logits)
    return np.where(probability >= float64(p) * probability.max(axis=-1, keepdims=True), float64(logits), -np.inf)


@vjp
def min_p_vjp(logits: ArrayLike, p: ArrayLike | float) -> Vjp:
    """dx = dy where kept."""
    return _kept_vjp(min_p(logits, p))


def _kept_vjp(out: Array) -> Vjp:
    """The backward of a choice: dx = dy where `out` is finite."""
    return out, lambda dy: (np.where(np.isneginf(out), 0, dy), None)
