"""The catalogue of slips, planted in the place of a learner's functions, and what the diagnosis names; without a process."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from train.learn.checking.calls import Attempt, Case, attempted, make_cases
from train.learn.checking.compare import difference
from train.learn.checking.diagnose import diagnose, differences
from train.learn.checking.pairs import combinations
from train.learn.course import ORDER, piece
from train.learn.piece import Function, Slip

Body = Callable[..., Any]
Names = tuple[str, ...]
RIGHT: Names = ()


def functions() -> list[tuple[str, Function]]:
    """Each function of the course with its piece."""
    return [(name, function) for name in ORDER for function in piece(name).functions]


def slips() -> list[tuple[str, Function, Slip]]:
    """Each slip with its function and its piece."""
    return [(name, function, slip) for name, function in functions() for slip in function.slips]


def drawn(function: Function, seed: int) -> list[Case]:
    """The cases of a seed."""
    return make_cases(function, np.random.default_rng(seed))


def judged(function: Function, cases: Sequence[Case], attempts: Sequence[Attempt]) -> set[Names]:
    """What the diagnosis names: sets of slips; {RIGHT} if all is right, nothing if it is unknown."""
    if not any(attempt.failure for attempt in attempts) and not any(differences(cases, attempts)):
        return {RIGHT}
    return {tuple(sorted(one.names)) for one in diagnose(function, cases, attempts)}


def named(function: Function, body: Body, seed: int) -> set[Names]:
    """What the diagnosis names if that is the learner's body."""
    cases = drawn(function, seed)
    return judged(function, cases, [attempted(body, case) for case in cases])


def bodies(function: Function) -> dict[Names, Body]:
    """The right function, and each slip's, by the names that the diagnosis has for them."""
    return {RIGHT: function.right} | {(slip.name,): slip.wrong for slip in function.slips}


def pairs(function: Function) -> Iterator[tuple[Names, Body]]:
    """Two slips in one body, for all that compose."""
    for both, wrong in combinations(function):
        yield tuple(sorted(slip.name for slip in both)), wrong


def same(function: Function, one: Body, other: Body, seed: int) -> bool:
    """Whether no input of a seed tells two bodies apart."""
    return all(_equal(attempted(one, case), attempted(other, case)) for case in drawn(function, seed))


def _equal(one: Attempt, other: Attempt) -> bool:
    if one.failure or other.failure:
        return bool(one.failure and other.failure and one.failure.type == other.failure.type)
    return difference(one.value, other.value) is None
