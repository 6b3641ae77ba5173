"""Muon: momentum made orthogonal, for the matrices of the blocks; AdamW for all other parameters."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxllm.reference.arrays import Array, tree_map
from jaxllm.reference.update_rules import NOT_OF_BLOCKS, Moments, adamw, moved, start_adamw, zeros_like

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


class Muon(NamedTuple):
    """The state of Muon."""

    updates: int  # their number so far
    mu: Any  # running mean of the gradients of the matrices
    rest: Moments  # AdamW's for all other parameters


def newton_schulz(x: Array, steps: int = 5, epsilon: float = 1e-8) -> Array:
    """A matrix [N, M] with the singular vectors of `x` and singular values near 1. Jordan et al. 2024.

    X / |X| has singular values of at most 1. X -> a X + (b A + c A^2) X with A = X X^T maps each of them by
    s -> a s + b s^3 + c s^5. These coefficients enlarge small ones quickly and bring all into about 0.7 to 1.2, not to
    1. The sides are exchanged where N > M, which changes nothing but the size of A.
    """
    a, b, c = COEFFICIENTS
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (math.sqrt(float((x**2).sum())) + epsilon)
    for _ in range(steps):
        squares = x @ x.T
        x = a * x + (b * squares + c * squares @ squares) @ x
    return x.T if tall else x


def start_muon(params: Any) -> Muon:
    """The state before the first update: all means are 0."""
    matrices, rest = split(params)
    return Muon(0, zeros_like(matrices), start_adamw(rest))


def muon(
    config: Any, gradients: Any, state: Muon, params: Any, learning_rate: float, width_ratio: float = 1.0
) -> tuple[Any, Muon]:
    """The updates and new state of Muon, whose mean mu = m mu + (1 - m) g decays by `config.momentum`.

    A parameter of three dimensions is a stack of matrices, such as one for each expert.

    The direction is that of the next mean if the same gradient came again (Nesterov; Dozat 2016, algorithm 2), made
    orthogonal and multiplied by 0.2 sqrt(longer side): its elements are then as large as those of AdamW's updates (Liu
    et al. 2025, equation 4). The spectral norm of the update has to be the same at all widths (Yang, Simon and
    Bernstein 2023, condition 1). That of AdamW's grows as the width, but this one as its root, by which it is divided.
    """
    m, t = config.momentum, state.updates + 1
    (matrices, rest), (p_matrices, p_rest) = split(gradients), split(params)
    mu = tree_map(lambda mean, g: m * mean + (1 - m) * g, state.mu, matrices)

    def direction(mean: Array, g: Array) -> Array:
        if g.ndim > 2:
            return np.stack([direction(*expert) for expert in zip(mean, g, strict=True)])
        ahead = m * mean / (1 - m ** (t + 1)) + (1 - m) * g / (1 - m**t)
        return 0.2 * math.sqrt(max(g.shape)) * newton_schulz(ahead)

    updates = moved(config, tree_map(direction, mu, matrices), p_matrices, learning_rate, math.sqrt(width_ratio))
    rest_updates, moments = adamw(config, rest, state.rest, p_rest, learning_rate)
    return merge(updates, rest_updates, params), Muon(t, mu, moments)


def split(tree: Any) -> tuple[Any, Any]:
    """The matrices that Muon updates, and all other leaves, each as nested dicts without the places of the others."""

    def chosen(tree: Any, matrices: bool, top: str = "") -> Any:
        inside: dict[Any, Any] = {}
        for name, x in tree.items():
            if isinstance(x, Mapping):
                below = chosen(x, matrices, top or name)
                inside |= {name: below} if below else {}
            elif (np.ndim(x) >= 2 and (top or name) not in NOT_OF_BLOCKS) == matrices:
                inside[name] = x
        return inside

    return chosen(tree, True), chosen(tree, False)


def merge(some: Any, others: Any, like: Any) -> Any:
    """Nested dicts with the leaves of both, in the order of `like`."""
    if not isinstance(like, Mapping):
        return others if some is None else some
    return {
        name: merge((some or {}).get(name), (others or {}).get(name), below) for name, below in like.items()
    }  # fmt: skip
