"""Results with the right numbers in other places: permuted, merged, reversed or lost axes, and a shift by one."""

from collections.abc import Iterator, Sequence
from itertools import permutations

import numpy as np

from .diagnosis import Diagnosis, Pair

MOST_AXES = 5  # 120 orders


def misplaced(pairs: Sequence[Pair], letters: str) -> Diagnosis | None:
    """The change of places that explains the arrays of all cases. `letters` name the last axes of the right one."""
    least = min(pair.right.ndim for pair in pairs)
    if least == 0 or max(pair.right.ndim for pair in pairs) > MOST_AXES:
        return None
    names = axis_names(letters, least)
    candidates = (_lost(pairs), _permuted(pairs, names), _reversed(pairs, names), _shifted(pairs, names))
    return next((one for candidate in candidates for one in candidate), None)


def axis_names(letters: str, count: int) -> list[str]:
    """Names of the last axes.

    >>> axis_names("H T K", 2), axis_names("", 2)
    (['T', 'K'], ['axis -2', 'axis -1'])
    """
    known = letters.split()[-count:]
    return [*(f"axis {i}" for i in range(-count, -len(known))), *known]


def _permuted(pairs: Sequence[Pair], names: list[str]) -> Iterator[Diagnosis]:
    """Axes in another order, and such an order read into the right shape: a reshape where a transpose is needed."""
    last = len(names)
    for order in list(permutations(range(last)))[1:]:
        if all(pair.equal(_moved(pair, order)) for pair in pairs):
            swapped = [name for i, name in enumerate(names) if order[i] != i]
            says = (
                f"has the axes {swapped[0]} and {swapped[1]} swapped"
                if len(swapped) == 2
                else f"has its axes in the order {', '.join(names[i] for i in order)}, not {', '.join(names)}"
            )
            yield Diagnosis(("axes",), says, "All numbers are right, but they are in the places of others.")
    for order in permutations(range(last)):
        if all(_reshapes(pair, order) for pair in pairs):
            how = (
                "read in the order " + ", ".join(names[i] for i in order) if order != tuple(range(last)) else "reshaped"
            )
            says = f"has the right numbers, {how}"
            why = "A reshape keeps the order of the numbers in memory; it cannot move an axis past another."
            yield Diagnosis(
                ("reshape",), says, why, "Write down the shape after each line, with the letters of the axes."
            )


def _moved(pair: Pair, order: tuple[int, ...]) -> np.ndarray:
    """The right array with its last axes in that order."""
    first = pair.right.ndim - len(order)
    return np.transpose(pair.right, (*range(first), *(first + i for i in order)))


def _reshapes(pair: Pair, order: tuple[int, ...]) -> bool:
    moved = _moved(pair, order)
    return moved.size == pair.mine.size and pair.equal(moved.reshape(pair.mine.shape))


def _lost(pairs: Sequence[Pair]) -> Iterator[Diagnosis]:
    """Axes of length 1 too many or too few; the first batch element, the sum or the mean in place of all."""
    if all(_without_ones(pair.mine) == _without_ones(pair.right) and _reshapes(pair, ()) for pair in pairs):
        yield Diagnosis(
            ("axis-of-one",), f"has the right numbers in the shape {pairs[0].mine.shape}, not {pairs[0].right.shape}",
            "Axes of length 1 are broadcast later, and then numbers meet that do not belong together.",
            "Look for an axis that is kept, added or squeezed.",
        )  # fmt: skip
    for name, function in (
        ("the first element", lambda x, i: np.take(x, 0, i)),
        ("the sum", np.sum),
        ("the mean", np.mean),
    ):
        for axis in range(pairs[0].right.ndim):
            if all(axis < pair.right.ndim and pair.equal(function(pair.right, axis)) for pair in pairs):
                says = f"has {name} along axis {axis} in place of all of it"
                yield Diagnosis(
                    ("lost-axis",), says, "The result has an axis too few.", "Look at each indexing and sum."
                )


def _without_ones(x: np.ndarray) -> list[int]:
    return [n for n in x.shape if n != 1]


def _reversed(pairs: Sequence[Pair], names: list[str]) -> Iterator[Diagnosis]:
    for axis, name in zip(range(-len(names), 0), names, strict=True):
        if all(pair.equal(np.flip(pair.right, axis)) for pair in pairs):
            yield Diagnosis(("reversed",), f"is reversed along {name}", "The last comes first.")


def _shifted(pairs: Sequence[Pair], names: list[str]) -> Iterator[Diagnosis]:
    """One position early or late along an axis; what is moved in may be anything."""
    for axis, name in zip(range(-len(names), 0), names, strict=True):
        for late, (of_mine, of_right) in {
            "late": (slice(1, None), slice(None, -1)),
            "early": (slice(None, -1), slice(1, None)),
        }.items():
            if _shows_a_shift(pairs, axis) and all(_overlaps(pair, axis, of_mine, of_right) for pair in pairs):
                says = f"is one position {late} along {name}"
                why = "Each number stands where its neighbour belongs."
                yield Diagnosis(("shift",), says, why, "Look at the first and the last index of each range.")


def _shows_a_shift(pairs: Sequence[Pair], axis: int) -> bool:
    """Whether there are positions enough, with different numbers, so that equality is no accident."""
    return any(
        pair.right.shape[axis] > 2
        and not pair.equal(pair.right)
        and np.ptp(np.take(pair.right, [1, -2], axis).astype(float)) > 0
        for pair in pairs
    )


def _overlaps(pair: Pair, axis: int, of_mine: slice, of_right: slice) -> bool:
    if pair.mine.shape != pair.right.shape or pair.right.shape[axis] < 2:
        return pair.is_right
    rest = (slice(None),) * (-axis - 1)
    part = Pair(pair.case, pair.right[(..., of_right, *rest)], pair.mine[(..., of_mine, *rest)], pair.dtype)
    return part.is_right
