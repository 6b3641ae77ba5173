"""A shuffled order that is computed where it is needed and never stored: position -> index, for any length.

It is a keyed permutation, a Feistel network (Luby and Rackoff 1988) whose two halves may have any size, so that few
values fall outside the range. It needs no memory, where an array of the order takes 8 bytes an entry.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ROUNDS = 8
MIXING = [(np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB))]
LAST = np.uint64(31)


def permute(positions: ArrayLike, n: int, keys: NDArray[Any]) -> NDArray[np.int64]:
    """The permutation of 0 .. n - 1 given by the `keys` [ROUNDS], at the positions [...] -> [...] int64.

    x = l b + r with l < a, r < b and a b >= n. Each round adds a hash of one half to the other, which can be undone, so
    no two positions get the same value. Values of n or above are permuted again until they are below n (Black and
    Rogaway 2002).
    """
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    values = np.array(positions, np.int64)
    outside = np.ones(values.shape, bool)
    while outside.any():
        left, right = np.divmod(values[outside], b)
        for i in range(0, ROUNDS, 2):
            left = (left + _hash(right, keys[i], a)) % a
            right = (right + _hash(left, keys[i + 1], b)) % b
        values[outside] = left * b + right
        outside &= values >= n
    return values


def _hash(x: NDArray[np.int64], key: np.uint64, limit: int) -> NDArray[np.int64]:
    """Numbers below `limit` that depend on all bits of x and key: SplitMix64's mixing (Steele et al. 2014)."""
    z = x.astype(np.uint64) + key
    for shift, factor in MIXING:
        z = (z ^ (z >> shift)) * factor
    return ((z ^ (z >> LAST)) % np.uint64(limit)).astype(np.int64)
