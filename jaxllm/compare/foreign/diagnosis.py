"""Which known slip explains a departure: one that leaves nothing over, where no slip of another kind does as well."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxllm.compare.foreign.fit import fit
from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber, Target
from jaxllm.compare.foreign.piece import ForeignPiece, arrays
from jaxllm.compare.foreign.slips import hypotheses, ours, roundings
from jaxllm.compare.twins import reference_config

EXPLAINED = 30  # times as large as what remains must the departure be
FEW, EXPLAINED_OF_FEW = 8, 300  # the same where fewer numbers than these were recorded
OF_A_LOSS = 1e-4  # the most that may remain of a single number, which many slips come near by chance
PRECISE = 1000  # as `EXPLAINED`, for a slip without a free number to be preferred to a fitted one


@dataclass(frozen=True)
class Explanation:
    """The slip that explains a departure."""

    slip: str  # its name: "epsilon"
    sentence: str  # what follows the name of the piece: "fits epsilon = 1e-06 to 3e-09; ours is 1e-05"
    fitted: float | None  # its number, where it has one
    remaining: float  # the largest error that is left over, relative to the largest value
    free: bool = False  # whether the number is any number, neither round nor of a known meaning


def departure(piece: ForeignPiece) -> float:
    """The largest error of a piece relative to its largest value; inf where shapes differ or numbers are not finite."""
    piece = _with_twins(piece)
    expected = _expected(piece)
    return Target.of(piece.got, expected).remaining(expected) if _comparable(piece, expected) else np.inf


def diagnose(piece: ForeignPiece, tolerance: float) -> Explanation | None:
    """The one slip that explains how a piece departs from ours down to `tolerance`, relative to its largest value.

    None where the piece agrees, where no known slip explains it, and where slips of different kinds do: what the
    record does not tell apart is not named. What is named leaves at most 1 / `EXPLAINED` of the departure.
    """
    piece = _with_twins(piece)
    with np.errstate(all="ignore"):
        expected = _expected(piece)
        if not _comparable(piece, expected):
            return None
        target = Target.of(piece.got, expected)
        parted = target.remaining(expected)
        tolerance = min(tolerance, OF_A_LOSS) if piece.kind == "loss" else tolerance
        limit = min(tolerance, parted / (EXPLAINED if target.size >= FEW else EXPLAINED_OF_FEW))
        if parted <= tolerance:
            return None
        known = Target.of(expected, expected).remaining(ours(piece)) <= limit / 10
        found = [one for one in _explanations(piece, expected, target, known) if one.remaining <= limit]
        return _only(found, parted) if found else _rounded(piece, expected, target)


def _with_twins(piece: ForeignPiece) -> ForeignPiece:
    """The piece with a twin in each field of its config that holds a user's function."""
    return replace(piece, config=reference_config(piece.config))


def _expected(piece: ForeignPiece) -> Any:
    """What ours computes."""
    expected = piece.extra.get("ours")
    return ours(piece) if expected is None else expected


def _comparable(piece: ForeignPiece, expected: object) -> bool:
    """Whether both have the same shapes and finite numbers throughout."""
    got, want = arrays(piece.got), arrays(expected)
    return [x.shape for x in got] == [y.shape for y in want] and all(np.isfinite(x).all() for x in (*got, *want))


def _explanations(piece: ForeignPiece, expected: object, target: Target, known: bool) -> Iterator[Explanation]:
    """What each slip leaves over; a fit only where there are enough numbers."""
    for one in hypotheses(piece, expected, known):
        if isinstance(one, Hypothesis):
            yield Explanation(one.slip, one.says, None, target.remaining(one.predict()))
        elif isinstance(one, OneNumber) and target.size >= FEW:
            fitted = fit(one, target)
            if fitted is not None:
                yield Explanation(one.slip, fitted.sentence, fitted.value, fitted.remaining, not fitted.is_round)


def _only(found: list[Explanation], parted: float) -> Explanation | None:
    """The best explanation, if all are of one kind and no other form of it does as well.

    A slip without a free number may be preferred to one whose number is fitted and has no meaning: the same numbers
    by chance to a thousandth are unlikely.
    """
    least = min(one.remaining for one in found)
    bound = [one for one in found if not one.free]
    kinds = {one.slip for one in found}
    if len(kinds) > 1:
        if len({one.slip for one in bound}) != 1:
            return None
        found = [one for one in bound if one.remaining <= parted / PRECISE]
    as_good = [one for one in found if one.remaining <= 3 * least + 1e-15]
    return as_good[0] if len({one.sentence for one in as_good}) == 1 else None


def _rounded(piece: ForeignPiece, expected: object, target: Target) -> Explanation | None:
    """The narrowest of the smaller dtypes in which the result may have been rounded."""
    return next(
        (Explanation("rounding", says, None, target.remaining(expected)) for says in roundings(piece, expected)), None
    )
