"""Drafting the next tokens by looking up where the last ones stood before."""

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, vjp


def drafted(text: ArrayLike, length: int, start: ArrayLike, n: int) -> Array:
    """`n` guesses of the tokens that follow text[b, start[b]:length]: what followed its last 3, 2 or 1 tokens before.

    Of several places the latest one counts. The text grows by each guess, so that the next one may copy it.
    """
    rows = []
    for row, first in zip(np.asarray(text), np.asarray(start), strict=True):
        seen = row[first:length].tolist()
        place = _latest(seen)
        for _ in range(n):
            seen.append(seen[place])
            place += 1
        rows.append(seen[len(seen) - n :])
    return np.array(rows, np.int32).reshape(len(rows), n)


def _latest(seen: list[int]) -> int:
    """The place behind the latest earlier one of the last 3 tokens, or 2, or 1; the last token's where it is new."""
    end = len(seen)
    for size in (3, 2, 1):
        for begin in reversed(range(end - size)):
            if seen[begin : begin + size] == seen[end - size :]:
                return begin + size
    return end - 1


@vjp
def drafted_vjp(text: ArrayLike, length: int, start: ArrayLike, n: int) -> Vjp:
    """Integers have no derivative."""
    return drafted(text, length, start, n), lambda dy: (None, None, None, None)
