"""NaN and infinity in place of right numbers."""

from collections.abc import Sequence

import numpy as np

from .diagnosis import Diagnosis, Pair
from .trees import leaves_of

LARGE = 300  # from about 709 on, exp overflows; differences of smaller numbers may reach that


def not_finite(pairs: Sequence[Pair]) -> Diagnosis | None:
    """Why there are NaN or infinite numbers, where all other numbers are right."""
    bad = [pair for pair in pairs if pair.mine.shape == pair.right.shape and _lost(pair).any()]
    if not bad or any(not _right_elsewhere(pair) for pair in pairs):
        return None
    kind = "NaN" if any(np.isnan(pair.mine).any() for pair in bad) else "infinite"
    if all(_has_empty_row(pair) for pair in bad):
        return Diagnosis(
            ("empty-row",), f"is {kind} where a row of the mask allows no position, and right elsewhere",
            "If all scores of a row are minus infinity, softmax divides 0 by 0.",
            "Think of which number may stand in place of minus infinity.",
        )  # fmt: skip
    if all(_has_large(pair) for pair in bad) and not any(_has_large(pair) for pair in pairs if not _lost(pair).any()):
        return Diagnosis(
            ("overflow",), f"is {kind} where numbers are large, and right elsewhere",
            "exp of a number above 709 is infinite in float64, and infinity divided by infinity is NaN.",
            "The same ratio can be computed from smaller numbers.",
        )  # fmt: skip
    return Diagnosis(("non-finite",), f"is {kind} at some places, and right elsewhere")


def _lost(pair: Pair) -> np.ndarray:
    """Where a finite number is right and the learner's is not finite."""
    return np.isfinite(pair.right.astype(float)) & ~np.isfinite(pair.mine.astype(float))


def _right_elsewhere(pair: Pair) -> bool:
    if pair.mine.shape != pair.right.shape:
        return False
    lost = _lost(pair)
    return Pair(pair.case, pair.right[~lost], pair.mine[~lost], pair.dtype).is_right


def _has_empty_row(pair: Pair) -> bool:
    masks = [x for x in leaves_of(pair.case.arguments) if isinstance(x, np.ndarray) and x.dtype == bool and x.ndim]
    return any((~mask.any(axis=-1)).any() for mask in masks)


def _has_large(pair: Pair) -> bool:
    floats = [x for x in leaves_of(pair.case.arguments) if isinstance(x, np.ndarray) and x.dtype.kind == "f" and x.size]
    return any(np.abs(x).max() > LARGE for x in floats)
