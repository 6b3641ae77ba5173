"""Numbers rounded to the smaller dtypes, and results that were computed in one of them."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxllm.compare.foreign.piece import ForeignPiece, arrays
from jaxllm.reference.arrays import Array, float64

MOST_ULPS = 2  # of the largest value, by which a result computed in a dtype is wrong
# Errors of rounding have no pattern. Of random errors, the mean square of the means along an axis is 1 / n of theirs,
# and the correlation with other numbers 1 / sqrt(n). What is above these multiples is not rounding alone.
MOST_OF_MEANS, MOST_CORRELATED = 6.0, 5.0


def _bits_kept(kept: int) -> Callable[[Any], Array]:
    """Rounding of a float32 to `kept` bits of its 23, to nearest, ties to even."""

    def rounded(x: Any) -> Array:
        bits = np.ascontiguousarray(np.asarray(x, np.float64).astype(np.float32)).view(np.uint32).astype(np.uint64)
        cut = 23 - kept
        odd = (bits >> np.uint64(cut)) & np.uint64(1)
        bits = (bits + np.uint64((1 << (cut - 1)) - 1) + odd) >> np.uint64(cut) << np.uint64(cut)
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)

    return rounded


def float16(x: Any) -> Array:
    """Rounded to float16."""
    return float64(x).astype(np.float16).astype(np.float64)


def float32(x: Any) -> Array:
    """Rounded to float32."""
    return float64(x).astype(np.float32).astype(np.float64)


bfloat16, tf32 = _bits_kept(7), _bits_kept(10)

# The dtypes of results from the narrowest: how they round, and the distance of 1 from the next number.
RESULTS: dict[str, tuple[Callable[[Any], Array], float]] = {
    "bfloat16": (bfloat16, 2.0**-7), "float16": (float16, 2.0**-10), "float32": (float32, 2.0**-23),
}  # fmt: skip
# How the operands of a product may be rounded while it is summed in float32. TF32 has the bits of float16.
OPERANDS = {"bfloat16": bfloat16, "TF32 or float16": tf32}
ENOUGH = 8  # numbers that have to be of a dtype: one may be by chance


def roundings(piece: ForeignPiece, expected: Any) -> Iterator[str]:
    """A sentence where all recorded numbers are of a smaller dtype, and within a few of its units of ours.

    A record of float32 is within float32 of ours throughout, so that dtype means something only where x is finer.
    """
    if piece.kind in ("loss", "optimizer", "gradient"):
        return
    (got,), (want,) = arrays(piece.got), arrays(expected)
    for dtype, (rounded, unit) in RESULTS.items():
        if dtype == "float32" and bool((rounded(piece.x) == piece.x).all()):
            continue
        of_dtype = np.count_nonzero(got) >= ENOUGH and bool((rounded(got) == got).all())
        small = float(np.abs(got - want).max()) <= MOST_ULPS * unit * float(np.abs(want).max())
        if of_dtype and small and _is_random(got - want, want):
            yield f"agrees with ours within the rounding of {dtype}, and all its numbers are of {dtype}"
            return


def _is_random(errors: Array, want: Array) -> bool:
    """Whether errors [..., D] are alike neither along an axis, nor multiples of what is wanted.

    Each row counts the same, as a large one has large errors.
    """
    largest = np.maximum(np.abs(want).max(axis=-1, keepdims=True), np.finfo(np.float64).tiny)
    errors, want = errors / largest, want / largest
    rows = errors.reshape(-1, errors.shape[-1])
    square = float((rows**2).mean())
    of_means = [n * float((rows.mean(axis=axis) ** 2).mean()) for axis, n in enumerate(rows.shape)]
    correlation = float((errors * want).mean()) / np.sqrt(square * float((want**2).mean()))
    return max(of_means) < MOST_OF_MEANS * square and abs(correlation) * np.sqrt(rows.size) < MOST_CORRELATED
