"""Every slip of the course, planted in the place of a right function, is named; right solutions are never accused.

The seeds are not those that the pieces' own tests use. `tests/tools/confusion.py` prints the table.
"""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from learn.catalogue import RIGHT, bodies, drawn, functions, named, pairs, same, slips
from learned import STYLES, solution

from train.learn.checking.calls import attempted
from train.learn.checking.compare import difference
from train.learn.piece import Function

pytestmark = pytest.mark.newest

SEEDS = (90_001, 90_002)
LATER = range(91_000, 91_003)  # on which what is named must equal what was planted, too
TWINS = {  # slips of one function that are equal on every input
    ("simple_attention_weights", frozenset({"softmax-over-queries", "weights-transposed"})),
}
ONE_PAIR_OF = 29  # of over 1,700; all of them by `tests/tools/confusion.py --pairs`
FUNCTIONS = [pytest.param(name, function, id=f"{name}.{function.name}") for name, function in functions()]


def test_how_many_slips_there_are() -> None:
    count = Counter(name for name, _, _ in slips())
    assert count.total() >= 80 and len(count) == 19


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_each_slip_is_named_exactly(name: str, function: Function) -> None:
    for seed in SEEDS:
        found = {slip.name: named(function, slip.wrong, seed) for slip in function.slips}
        assert found == {slip.name: {(each,) for each in twins_of(function, slip.name)} for slip in function.slips}


def twins_of(function: Function, slip: str) -> frozenset[str]:
    return next((names for of, names in TWINS if of == function.name and slip in names), frozenset({slip}))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_two_slips_in_one_body(name: str, function: Function) -> None:
    """Both are named or, where no input tells apart from both, fewer: one of the two may hide the other."""
    alone = bodies(function)
    for planted, body in islice(pairs(function), 0, None, ONE_PAIR_OF):
        found = named(function, body, SEEDS[0])
        assert planted in found or (found and all(len(names) < 2 for names in found)), (planted, found)
        for other in found if planted not in found else ():
            assert all(same(function, body, alone[other], seed) for seed in LATER), (planted, other)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_right_solutions_are_never_accused(name: str, function: Function, style: str) -> None:
    body = getattr(solution(style, name), function.name)
    for seed in range(92_000, 92_008):
        assert named(function, body, seed) == {RIGHT}


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_the_texts_of_a_slip(name: str, function: Function) -> None:
    """Names differ within a function, and `says` follows "your NAME" as a sentence without its point."""
    assert len({slip.name for slip in function.slips}) == len(function.slips)
    for slip in function.slips:
        assert (
            slip.says[0].islower()
            and slip.says[-1] not in ".!?"
            and slip.explanation[-1] == "."
            and slip.hint[-1] in ".?"
        )


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_hooks_say_the_same_as_the_wrong_function(name: str, function: Function) -> None:
    for slip in function.slips:
        for case in drawn(function, SEEDS[0]) if slip.before or slip.after else []:
            with np.errstate(all="ignore"):
                values = (slip.before(dict(case.arguments)) if slip.before else case.arguments).values()
                result = function.right(*values)
                result = slip.after(result, dict(case.arguments)) if slip.after else result
            attempt = attempted(slip.wrong, case)
            assert not attempt.failure and difference(result, attempt.value) is None
