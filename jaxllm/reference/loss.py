"""Twins of `jaxllm.loss`, in float64."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.layers import Array, float64


def token_losses(logits: ArrayLike, targets: ArrayLike) -> Array:
    """log sum_v exp(logit_v) - logit_target, NaN for a target outside the vocabulary."""
    z, targets = float64(logits), np.asarray(targets)
    z = z - z.max(axis=-1, keepdims=True)
    inside = (targets >= 0) & (targets < z.shape[-1])
    chosen = np.take_along_axis(z, np.where(inside, targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(inside, np.log(np.exp(z).sum(axis=-1)) - chosen, np.nan)


def cross_entropy(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """sum(w * loss) / sum(w), w = 1 where not given."""
    losses = token_losses(logits, targets)
    w = np.ones_like(losses) if weights is None else float64(weights)
    return np.asarray((losses * w).sum() / w.sum())
