"""Twins of what Optax does in a training step (`train.step`), in float64: schedule, clipping, AdamW.

Trees are nested dicts of arrays, as `params` is.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxllm.reference.arrays import leaves, tree_map


class Moments(NamedTuple):
    """AdamW's memory."""

    updates: int  # so far
    mu: Any  # running mean of the gradients
    nu: Any  # running mean of their squares


def learning_rate(config: Any, steps: int, step: int) -> float:
    """Of step `step` = 0, 1, ... : a line from lr / (warmup + 1) up to lr, then half a cosine wave down to the minimum.

    `config` is an OptimizerConfig. nanoGPT's schedule (its train.py).
    """
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps
    if step < warmup:
        return highest * (step + 1) / (warmup + 1)
    done = min((step - warmup) / (steps - warmup), 1)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * done)) / 2


def global_norm(tree: Any) -> float:
    """The length of all leaves taken as one vector."""
    return math.sqrt(sum(float((leaf**2).sum()) for leaf in leaves(tree)))


def clip_by_global_norm(gradients: Any, limit: float) -> Any:
    """The gradients, shortened to `limit` where they are longer; their direction stays. Pascanu et al. 2013."""
    norm = global_norm(gradients)
    return gradients if norm <= limit else tree_map(lambda g: g * (limit / norm), gradients)


def start(params: Any) -> Moments:
    """No updates yet, both means 0."""
    zeros = tree_map(lambda p: np.zeros(np.shape(p)), params)
    return Moments(0, zeros, zeros)


def adamw(
    config: Any, gradients: Any, moments: Moments, params: Any, learning_rate: float, epsilon: float = 1e-8
) -> tuple[Any, Moments]:
    """What is to be added to the parameters, and the new moments. Loshchilov and Hutter 2019, algorithm 2.

    As in PyTorch and Optax the decay is multiplied by the learning rate too, which the paper leaves apart.

    mu = b1 mu + (1 - b1) g, nu = b2 nu + (1 - b2) g^2. Both began at 0 and are too small by 1 - b^t after t updates;
    dividing by that corrects them. The step is -lr (mu' / (sqrt(nu') + epsilon) + decay p), with decay for matrices
    only: a bias or a norm's scale has nothing to gain from being small.
    """
    b1, b2, t = config.beta1, config.beta2, moments.updates + 1
    mu = tree_map(lambda m, g: b1 * m + (1 - b1) * g, moments.mu, gradients)
    nu = tree_map(lambda n, g: b2 * n + (1 - b2) * g**2, moments.nu, gradients)

    def update(m: Any, n: Any, p: Any) -> Any:
        decay = config.weight_decay if np.ndim(p) >= 2 else 0.0
        return -learning_rate * (m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + epsilon) + decay * p)

    return tree_map(update, mu, nu, params), Moments(t, mu, nu)


def update(config: Any, steps: int, step: int, gradients: Any, moments: Moments, params: Any) -> tuple[Any, Moments]:
    """Clipping, then AdamW at the learning rate of step `step`: what the optimizer of `train.step` does."""
    clipped = clip_by_global_norm(gradients, config.clip_norm)
    return adamw(config, clipped, moments, params, learning_rate(config, steps, step))
