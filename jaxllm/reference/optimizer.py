"""What Optax does in a training step: the schedule of the learning rate, clipping, AdamW.

Gradients, moments and updates are nested dicts of arrays like `params`. `config` is an OptimizerConfig.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxllm.reference.arrays import leaves, tree_map


class Moments(NamedTuple):
    """The state of AdamW."""

    updates: int  # their number so far
    mu: Any  # running mean of the gradients
    nu: Any  # running mean of their squares


def learning_rate(config: Any, steps: int, step: int) -> float:
    """The learning rate of step 0, 1, ..., `steps` - 1: a linear warm-up, then half a cosine wave down to the minimum.

    The warm-up begins at lr / (warmup + 1) and not at 0, as in nanoGPT's train.py. Loshchilov and Hutter 2017, equation
    5, without restarts.
    """
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    progress = min((step - warmup) / (steps - warmup), 1)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * progress)) / 2


def global_norm(tree: Any) -> float:
    """The Euclidean norm of all leaves taken as one vector."""
    return math.sqrt(sum(float((leaf**2).sum()) for leaf in leaves(tree)))


def clip_by_global_norm(gradients: Any, limit: float) -> Any:
    """The gradients, scaled to the norm `limit` if theirs is larger. Pascanu et al. 2013."""
    norm = global_norm(gradients)
    return gradients if norm <= limit else tree_map(lambda g: g * (limit / norm), gradients)


def start(params: Any) -> Moments:
    """The state before the first update: both means are 0."""
    zeros = tree_map(lambda p: np.zeros(np.shape(p)), params)
    return Moments(0, zeros, zeros)


def adamw(
    config: Any, gradients: Any, moments: Moments, params: Any, learning_rate: float, epsilon: float = 1e-8
) -> tuple[Any, Moments]:
    """The updates, which are added to the parameters, and the new moments. Loshchilov and Hutter 2019, algorithm 2.

    mu = b1 mu + (1 - b1) g and nu = b2 nu + (1 - b2) g^2. Both start at 0, so after t updates they are too small by the
    factor 1 - b^t; mu' and nu' are corrected by it. The update is -lr (mu' / (sqrt(nu') + epsilon) + decay p), where
    the decay is for matrices only, not for biases and the scales of norms. As in PyTorch and Optax the decay is
    multiplied by the learning rate, unlike in the paper.
    """
    b1, b2, t = config.beta1, config.beta2, moments.updates + 1
    mu = tree_map(lambda m, g: b1 * m + (1 - b1) * g, moments.mu, gradients)
    nu = tree_map(lambda n, g: b2 * n + (1 - b2) * g**2, moments.nu, gradients)

    def update(m: Any, n: Any, p: Any) -> Any:
        decay = config.weight_decay if np.ndim(p) >= 2 else 0.0
        return -learning_rate * (m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + epsilon) + decay * p)

    return tree_map(update, mu, nu, params), Moments(t, mu, nu)


def update(config: Any, steps: int, step: int, gradients: Any, moments: Moments, params: Any) -> tuple[Any, Moments]:
    """The updates and new moments of step number `step`: clipping, then AdamW at the learning rate of the schedule."""
    clipped = clip_by_global_norm(gradients, config.clip_norm)
    return adamw(config, clipped, moments, params, learning_rate(config, steps, step))
