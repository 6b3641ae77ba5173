"""Which mistake it is: what the learner's results are equal to, in all cases of a check.

The order is from the particular to the general: a slip of the catalogue, two of them, numbers in other places or types,
a factor. What is named explains the result of every case; where nothing does, nothing is named.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..piece import Function, Slip
from .axes import misplaced
from .calls import Attempt, Case, attempted
from .compare import Mismatch, difference
from .diagnosis import Diagnosis, Pair, arrays_in
from .fits import fitted
from .nonfinite import not_finite
from .pairs import combinations
from .trees import named

MOST_NAMED = 4  # slips that no input of the check tells apart


def diagnose(function: Function, cases: Sequence[Case], attempts: Sequence[Attempt]) -> list[Diagnosis]:
    """What the results are equal to; several if the cases do not tell them apart, none if it is unknown.

    The function must be wrong in some case.
    """
    if any(attempt.failure and attempt.failure.kind != "raised" for attempt in attempts):
        return []
    found = differences(cases, attempts)
    if all(one is None or one.kind == "dtype" for one in found) and not any(a.failure for a in attempts):
        return [_dtype(next(one for one in found if one))]
    named_slips = [_of_slip(slip) for slip in function.slips if _explains(slip.wrong, cases, attempts)]
    named_slips = named_slips or [
        _of_pair(function, *slips) for slips, wrong in combinations(function) if _explains(wrong, cases, attempts)
    ]
    if named_slips:
        return named_slips[:MOST_NAMED]
    return _of_numbers(function, cases, attempts) or _without_batch(cases, found, attempts)


def differences(cases: Sequence[Case], attempts: Sequence[Attempt]) -> list[Mismatch | None]:
    """The first difference in each case; None where the result is right, and where there is none."""
    return [
        None if attempt.failure else difference(case.right, attempt.value)
        for case, attempt in zip(cases, attempts, strict=True)
    ]


def _explains(wrong: Callable[..., Any], cases: Sequence[Case], attempts: Sequence[Attempt]) -> bool:
    """Whether a wrong function returns, or raises, what the learner's does in every case."""
    return all(_same(attempted(wrong, case), attempt) for case, attempt in zip(cases, attempts, strict=True))


def _same(expected: Attempt, attempt: Attempt) -> bool:
    if expected.failure or attempt.failure:
        both = expected.failure and attempt.failure
        return bool(both) and expected.failure.type == attempt.failure.type  # type: ignore[union-attr]
    found = difference(expected.value, attempt.value)
    return found is None or found.kind == "dtype"


def _of_slip(slip: Slip) -> Diagnosis:
    return Diagnosis((slip.name,), slip.says, slip.explanation, slip.hint)


def _of_pair(function: Function, one: Slip, other: Slip) -> Diagnosis:
    one, other = sorted((one, other), key=function.slips.index)
    says = f"{one.says}, and at the same time {other.says}"
    return Diagnosis((one.name, other.name), says, f"{one.explanation} {other.explanation}", f"{one.hint} {other.hint}")


def _dtype(found: Mismatch) -> Diagnosis:
    return Diagnosis(
        ("dtype",), found.says, "The arguments are float64 and int64, and a result keeps their type.",
        "Look for a conversion, and for an array that is made without its type.",
    )  # fmt: skip


def _of_numbers(function: Function, cases: Sequence[Case], attempts: Sequence[Attempt]) -> list[Diagnosis]:
    """What every wrong array of the results is, place by place."""
    if any(attempt.failure for attempt in attempts):
        return []
    places: dict[Any, list[Pair]] = {}
    for case, attempt in zip(cases, attempts, strict=True):
        right, mine = dict(arrays_in(case.right)), dict(arrays_in(attempt.value))
        if right.keys() != mine.keys():
            return []
        for place in right:
            places.setdefault(place, []).append(Pair.of(case, right[place], mine[place]))
    wrong = {place: pairs for place, pairs in places.items() if not all(pair.is_right for pair in pairs)}
    found = {place: _of_array(pairs, function.axes) for place, pairs in wrong.items()}
    if not found or None in found.values():
        return []
    return _joined({place: one for place, one in found.items() if one}, len(places))


def _of_array(pairs: Sequence[Pair], axes: str) -> Diagnosis | None:
    if any(pair.mine.dtype.kind not in "biuf" for pair in pairs):
        return None
    with np.errstate(all="ignore"):
        return not_finite(pairs) or misplaced(pairs, axes) or fitted(pairs)


def _joined(found: dict[Any, Diagnosis], places: int) -> list[Diagnosis]:
    """One diagnosis of all places, if it is the same; else each with its place."""
    first = next(iter(found.values()))
    if len(set(found.values())) == 1 and len(found) == places:
        return [first]
    says = "; ".join(f"{one.says} at {named(place)}" for place, one in found.items())
    return [Diagnosis(first.names, says, first.explanation, first.hint)]


def _without_batch(
    cases: Sequence[Case], found: Sequence[Mismatch | None], attempts: Sequence[Attempt]
) -> list[Diagnosis]:
    """Right for few axes, wrong for more."""
    depth = [max((x.ndim for x in case.arguments.values() if isinstance(x, np.ndarray)), default=0) for case in cases]
    bad = [bool(one) or bool(attempt.failure) for one, attempt in zip(found, attempts, strict=True)]
    wrong = [n for n, is_bad in zip(depth, bad, strict=True) if is_bad]
    right = [n for n, is_bad in zip(depth, bad, strict=True) if not is_bad]
    if not right or max(right) >= min(wrong):
        return []
    says = f"is right for arguments of up to {max(right)} axes, and wrong with batch axes before them"
    return [
        Diagnosis(
            ("batch-axes",), says, "A batch puts further axes before those that the function is about.",
            "Count axes from the end.",
        )
    ]  # fmt: skip
