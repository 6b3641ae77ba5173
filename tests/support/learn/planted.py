"""Mistakes planted in the right functions of the course, and what the diagnosis names; without a process."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from train.learn.calls import attempted, make_cases
from train.learn.course import ORDER, piece
from train.learn.diagnose import diagnose, differences
from train.learn.pairs import combinations
from train.learn.piece import Function, Slip

Names = tuple[str, ...]
RIGHT: Names = ()


def functions() -> Iterator[tuple[str, Function]]:
    """Each function of the course with its piece."""
    for name in ORDER:
        for function in piece(name).functions:
            yield name, function


def named(function: Function, body: Callable[..., Any], seed: int) -> set[Names]:
    """What the diagnosis names if that is the learner's body: sets of slips; {RIGHT} if all is right, none if unknown."""
    cases = make_cases(function, np.random.default_rng(seed))
    attempts = [attempted(body, case) for case in cases]
    if not any(attempt.failure for attempt in attempts) and not any(differences(cases, attempts)):
        return {RIGHT}
    return {tuple(sorted(one.names)) for one in diagnose(function, cases, attempts)}


def pairs(function: Function) -> Iterator[tuple[tuple[Slip, Slip], Callable[..., Any]]]:
    """Two slips in one body, for all that compose."""
    yield from combinations(function)


def confusion(seed: int) -> Iterator[tuple[str, Function, Slip, set[Names]]]:
    """Each slip of the course, planted, with what is named."""
    for name, function in functions():
        for slip in function.slips:
            yield name, function, slip, named(function, slip.wrong, seed)
