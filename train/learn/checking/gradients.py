"""Gradients of a function whose values are right: whether they are right too, and what they are if not."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .calls import Attempt, Case
from .compare import Mismatch, close
from .diagnosis import Diagnosis
from .trees import Place, places

Gradient = tuple[Place, Any, Any]  # its place among the arguments, the right one, the learner's
CUT = (
    "The backward pass stops where a result is detached, converted to NumPy, or made anew from numbers.",
    "Look for such a conversion between this argument and the result.",
)


def gradients_of(case: Case, attempt: Attempt) -> list[Gradient]:
    """The gradients of a case that are compared; the first part of a place is the argument's name."""
    if case.gradients is None or attempt.gradients is None:
        return []
    right = dict(places(dict(zip(case.arguments, case.gradients, strict=True))))
    mine = dict(places(dict(zip(case.arguments, attempt.gradients, strict=True))))
    return [
        (place, right[place], mine[place])
        for place in right
        if right[place] is not None and mine.get(place) is not None
    ]


def gradient_difference(case: Case, attempt: Attempt) -> Mismatch | None:
    """The first wrong number. Rounding is measured at the largest number of all gradients of the call."""
    for place, right, mine in gradients_of(case, attempt):
        wrong = ~np.asarray(_close(right, mine, _scale(case, attempt)))
        if np.shape(right) != np.shape(mine) or wrong.any():
            index = tuple(int(i) for i in np.argwhere(wrong)[0]) if np.shape(right) == np.shape(mine) else ()
            return Mismatch("value", "", place, index, mine, right)
    return None


def _close(right: Any, mine: Any, scale: float) -> Any:
    if np.shape(right) != np.shape(mine):
        return False
    return close(np.asarray(right), mine, scale=10 * scale)


def _scale(case: Case, attempt: Attempt) -> float:
    return max(
        (float(np.abs(right).max()) for _, right, _ in gradients_of(case, attempt) if np.size(right)), default=0.0
    )


def diagnose_gradients(cases: Sequence[Case], attempts: Sequence[Attempt]) -> list[Diagnosis]:
    """What the wrong gradients are; none if it is unknown."""
    wrong: dict[Place, list[tuple[Any, Any, float]]] = {}
    all_places = set()
    for case, attempt in zip(cases, attempts, strict=True):
        scale = _scale(case, attempt)
        for place, right, mine in gradients_of(case, attempt):
            all_places.add(place)
            wrong.setdefault(place, []).append((right, mine, scale))
    wrong = {place: all_ for place, all_ in wrong.items() if not all(np.all(_close(*one)) for one in all_)}
    found = {place: _of_place(all_) for place, all_ in wrong.items()}
    if not found or None in found.values():
        return []
    return [_said(found, len(all_places))]


def _of_place(gradients: Sequence[tuple[Any, Any, float]]) -> str | None:
    """ "zero", "NaN", "2 times the right one"; None if it is none of them."""
    if all(not np.any(mine) for _, mine, _ in gradients):
        return "zero"
    if any(not np.all(np.isfinite(mine)) for _, mine, _ in gradients):
        return "not finite"
    factors = [float(np.vdot(right, mine) / np.vdot(right, right)) for right, mine, _ in gradients if np.any(right)]
    if factors and all(np.all(_close(right * factors[0], mine, scale)) for right, mine, scale in gradients):
        return f"{factors[0]:.6g} times the right one"
    return None


def _said(found: dict[Place, Any], count: int) -> Diagnosis:
    kinds = set(found.values())
    whose = "every argument" if len(found) == count and count > 1 else ", ".join(written(place) for place in found)
    if len(kinds) > 1:
        says = "has wrong gradients: " + ", ".join(
            f"that of {written(place)} is {kind}" for place, kind in found.items()
        )
    else:
        says = f"has the right value, but its gradient with respect to {whose} is {next(iter(kinds))}"
    if kinds == {"zero"}:
        return Diagnosis(("gradient-zero",), says, *CUT)
    if "not finite" in kinds:
        why = "Where a branch is not taken, its gradient is multiplied by 0, and 0 times infinity is NaN."
        return Diagnosis(("gradient-nan",), says, why, "Look at what is computed where the result does not need it.")
    return Diagnosis(("gradient-scale",), says, "A part of the backward pass is cut, or counted twice.")


def written(place: Place) -> str:
    """A place among the arguments.

    >>> written(("params", "query", "kernel"))
    "params['query']['kernel']"
    """
    return str(place[0]) + "".join(f"[{name!r}]" for name in place[1:])
