"""A shuffled order that is computed where it is asked for, not kept: place -> which, for any number of places.

An array of the order of 10^9 windows takes 8 GB and minutes to draw; Levanter, too, uses a keyed permutation instead
(a Feistel network, Luby and Rackoff 1988). This one has halves of any size, so that hardly a number falls outside.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 8
MIXING = [(np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))]
LAST = np.uint64(31)


def permute(places: ArrayLike, n: int, keys: NDArray[Any]) -> NDArray[np.int64]:
    """The permutation of 0 .. n - 1 that belongs to the `keys` [ROUNDS], at the places [...] -> [...] int64.

    x = l b + r with l < a, r < b and a b >= n; each round adds a hash of one half to the other, which can be undone, so
    that no two places meet. What falls on n or beyond goes round again until it falls below (Black and Rogaway 2002).
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    which = np.array(places, np.int64)
    outside = np.ones(which.shape, bool)
    while outside.any():
        left, right = np.divmod(which[outside], b)
        for i in range(0, ROUNDS, 2):
            left = (left + _hash(right, keys[i], a)) % a
            right = (right + _hash(left, keys[i + 1], b)) % b
        which[outside] = left * b + right
        outside &= which >= n
    return which


def _hash(x: NDArray[np.int64], key: np.uint64, limit: int) -> NDArray[np.int64]:
    """Numbers below `limit` that depend on all bits of x and key: the mixing of SplitMix64 (Steele et al. 2014)."""
    z = x.astype(np.uint64) + key
    for shift, factor in MIXING:
        z = (z ^ (z >> shift)) * factor
    return ((z ^ (z >> LAST)) % np.uint64(limit)).astype(np.int64)
