"""What each optimizer does with clipped gradients: AdamW, Lion, SGD, Adafactor, schedule-free AdamW.

Every function takes an OptimizerConfig, the gradients, its state, the parameters and the learning rate. It returns the
updates, which are added to the parameters, and the new state. An update is -lr (direction + decay p), with decay for
matrices only, not for biases and scales of norms. As in PyTorch and Optax the decay is multiplied by the learning
rate, unlike in Loshchilov and Hutter 2019. Gradients, moments and updates are nested dicts of arrays like `params`.

In a model m times as wide as the base of its muP, a `width_ratio` of m divides the directions of the matrices of the
blocks (Yang et al. 2022, table 8, Adam), not the decay.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from jaxllm.reference.arrays import Array, tree_map


class Moments(NamedTuple):
    """The state of AdamW."""

    updates: int  # their number so far
    mu: Any  # running mean of the gradients
    nu: Any  # running mean of their squares


class Momentum(NamedTuple):
    """The state of Lion and of SGD."""

    mu: Any  # running mean or, for SGD, decaying sum of the gradients


class Factored(NamedTuple):
    """The state of Adafactor."""

    updates: int  # their number so far
    nu: Any  # running means of the squared gradients; of a matrix (means of its rows, means of its columns)


class Averaged(NamedTuple):
    """The state of schedule-free AdamW, whose parameters y lie between z and their average x."""

    updates: int  # their number so far
    nu: Any  # running mean of the squared gradients
    z: Any  # the parameters that the updates are added to
    largest: float  # learning rate so far
    weights: float  # sum of the weights in the average so far


# Tables and the head; all other matrices are in a block.
NOT_OF_BLOCKS = ("token_embedding", "ngram_embedding", "position_embedding", "head", "classifier")


def zeros_like(params: Any) -> Any:
    """Zeros in the place of each parameter."""
    return tree_map(lambda p: np.zeros(np.shape(p)), params)


def moved(config: Any, directions: Any, params: Any, learning_rate: float, width_ratio: float = 1.0) -> Any:
    """The updates -lr (direction + decay p), with the decay for matrices only.

    The directions of the blocks' matrices are divided by the width ratio.
    """

    def update(direction: Any, p: Any) -> Any:
        decay = config.weight_decay if np.ndim(p) >= 2 else 0.0
        return -learning_rate * (direction + decay * p)

    def narrowed(direction: Any) -> Any:
        return direction / width_ratio if np.ndim(direction) >= 2 else direction

    return {
        name: tree_map(update, part if name in NOT_OF_BLOCKS else tree_map(narrowed, part), params[name])
        for name, part in directions.items()
    }


def start_adamw(params: Any) -> Moments:
    """The state before the first update: both means are 0."""
    return Moments(0, zeros_like(params), zeros_like(params))


def adamw(
    config: Any,
    gradients: Any,
    moments: Moments,
    params: Any,
    learning_rate: float,
    width_ratio: float = 1.0,
    epsilon: float = 1e-8,
) -> tuple[Any, Moments]:
    """The updates and new moments of AdamW. Loshchilov and Hutter 2019, algorithm 2.

    mu = b1 mu + (1 - b1) g and nu = b2 nu + (1 - b2) g^2. Both start at 0, so after t updates they are too small by the
    factor 1 - b^t; mu' and nu' are corrected by it. The direction is mu' / (sqrt(nu') + epsilon).
    """
    b1, b2, t = config.beta1, config.beta2, moments.updates + 1
    mu = tree_map(lambda m, g: b1 * m + (1 - b1) * g, moments.mu, gradients)
    nu = tree_map(lambda n, g: b2 * n + (1 - b2) * g**2, moments.nu, gradients)
    directions = tree_map(lambda m, n: m / (1 - b1**t) / (np.sqrt(n / (1 - b2**t)) + epsilon), mu, nu)
    return moved(config, directions, params, learning_rate, width_ratio), Moments(t, mu, nu)


def start_momentum(params: Any) -> Momentum:
    """The state of Lion or SGD before the first update."""
    return Momentum(zeros_like(params))


def lion(
    config: Any, gradients: Any, state: Momentum, params: Any, learning_rate: float, width_ratio: float = 1.0
) -> tuple[Any, Momentum]:
    """The updates and new momentum of Lion. Chen et al. 2023, algorithm 2.

    The direction is sign(b1 mu + (1 - b1) g); then mu = b2 mu + (1 - b2) g.
    """
    b1, b2 = config.beta1, config.beta2
    directions = tree_map(lambda m, g: np.sign(b1 * m + (1 - b1) * g), state.mu, gradients)
    mu = tree_map(lambda m, g: b2 * m + (1 - b2) * g, state.mu, gradients)
    return moved(config, directions, params, learning_rate, width_ratio), Momentum(mu)


def sgd(config: Any, gradients: Any, state: Momentum, params: Any, learning_rate: float) -> tuple[Any, Momentum]:
    """The updates and new momentum of SGD: mu = g + momentum mu is the direction.

    Loshchilov and Hutter 2019, algorithm 1, with the learning rate outside the momentum.
    """
    mu = tree_map(lambda m, g: g + config.momentum * m, state.mu, gradients)
    return moved(config, mu, params, learning_rate), Momentum(mu)


def start_adafactor(params: Any) -> Factored:
    """The state before the first update."""

    def zeros(p: Any) -> Any:
        return row_and_column_means(np.zeros(np.shape(p))) if np.ndim(p) >= 2 else np.zeros(np.shape(p))

    return Factored(0, tree_map(zeros, params))


def adafactor(
    config: Any, gradients: Any, state: Factored, params: Any, learning_rate: float, epsilon: float = 1e-30
) -> tuple[Any, Factored]:
    """The updates and new state of Adafactor without a first moment. Shazeer and Stern 2018, algorithms 4 and 5.

    At update t the decay is b = 1 - t^-0.8. The squares of a matrix [N, M] are estimated by the outer product of the
    means of its rows and of its columns, over the mean of all (equation 4). A stack of matrices is estimated along its
    two longest dimensions, as by `optax.scale_by_factored_rms`. The direction u = g / sqrt(nu) is divided
    by max(1, RMS(u)) and multiplied by max(1e-3, RMS(p)), so that the learning rate is relative to the parameter.
    """
    t = state.updates + 1
    b = 1 - float(t) ** -0.8

    def second_moment(n: Any, g: Any) -> Any:
        squares = g**2 + epsilon
        if np.ndim(g) < 2:
            return b * n + (1 - b) * squares
        return tuple(b * old + (1 - b) * new for old, new in zip(n, row_and_column_means(squares), strict=True))

    def direction(g: Any, n: Any, p: Any) -> Any:
        u = g / np.sqrt(outer_product(n, g.shape) if np.ndim(g) >= 2 else n)
        return u / max(1.0, root_mean_square(u)) * max(1e-3, root_mean_square(p))

    nu = tree_map(second_moment, state.nu, gradients)
    directions = tree_map(direction, gradients, nu, params)
    return moved(config, directions, params, learning_rate), Factored(t, nu)


def row_and_column_means(x: Array) -> tuple[Array, Array]:
    """The means of a matrix over its columns and over its rows; in a stack of matrices over the two longest sides."""
    first, second = longest_sides(x.shape)
    return x.mean(axis=second), x.mean(axis=first)


def outer_product(means: tuple[Array, Array], shape: tuple[int, ...]) -> Array:
    """The array of that shape that `row_and_column_means` are closest to: their product over the mean of all."""
    first, second = longest_sides(shape)
    rows, columns = np.expand_dims(means[0], second), np.expand_dims(means[1], first)
    return rows * columns / rows.mean(axis=first, keepdims=True)


def longest_sides(shape: tuple[int, ...]) -> list[int]:
    """The numbers of the two longest dimensions, in order."""
    return sorted(np.argsort(shape)[-2:].tolist())


def root_mean_square(x: Array) -> float:
    """The root of the mean square of all elements."""
    return math.sqrt(float((x**2).mean()))


def start_schedule_free_adamw(params: Any) -> Averaged:
    """The state before the first update: z and x are the parameters."""
    return Averaged(0, zeros_like(params), tree_map(np.copy, params), 0.0, 0.0)


def schedule_free_adamw(
    config: Any,
    gradients: Any,
    state: Averaged,
    params: Any,
    learning_rate: float,
    width_ratio: float = 1.0,
    epsilon: float = 1e-8,
) -> tuple[Any, Averaged]:
    """The updates of y, which are the parameters, and the new state. Defazio et al. 2024, algorithm 1.

    The gradients are taken at y = (1 - b1) z + b1 x. AdamW without a first moment updates z. Then x moves to z by
    c = w / (the sum of all w so far), where w is the square of the largest learning rate so far, as in Optax.
    """
    b1, b2, t = config.beta1, config.beta2, state.updates + 1
    nu = tree_map(lambda n, g: b2 * n + (1 - b2) * g**2, state.nu, gradients)
    directions = tree_map(lambda g, n: g / (np.sqrt(n / (1 - b2**t)) + epsilon), gradients, nu)
    z = tree_map(np.add, state.z, moved(config, directions, params, learning_rate, width_ratio))
    largest = max(state.largest, learning_rate)
    weights = state.weights + largest**2
    c = largest**2 / weights
    x = tree_map(lambda old, z: (1 - c) * old + c * z, averaged(config, state, params), z)
    updates = tree_map(lambda x, z, y: b1 * x + (1 - b1) * z - y, x, z, params)
    return updates, Averaged(t, nu, z, largest, weights)


def averaged(config: Any, state: Averaged, params: Any) -> Any:
    """The average x of schedule-free AdamW, which is evaluated: (y - (1 - b1) z) / b1, where y are the parameters."""
    b1 = config.beta1
    return tree_map(lambda y, z: (y - (1 - b1) * z) / b1, params, state.z)
