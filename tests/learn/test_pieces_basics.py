"""The pieces around attention: what is right, three ways to write it, and slips that differ from it and from each other."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from learned import STYLES, agree, calls, outcome, solution

from jaxllm.compare import compare_function
from train.learn.course import piece
from train.learn.piece import Function

NAMES = (
    "word_tokenizer", "char_tokenizer", "byte_pair_tokenizer", "input_target_pairs", "token_embedding",
    "position_embedding", "linear_map", "cross_entropy", "training_step", "sampling",
)  # fmt: skip
FUNCTIONS = [pytest.param(name, f, id=f"{name}-{f.name}") for name in NAMES for f in piece(name).functions]
DIFFERENTIABLE = [parameter for parameter in FUNCTIONS if parameter.values[1].vjp]  # type: ignore[attr-defined]


@pytest.mark.parametrize("folder", STYLES)
@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_style_is_right(name: str, function: Function, folder: str) -> None:
    theirs = getattr(solution(folder, name), function.name)
    for seed in (0, 1):
        for arguments in calls(function, seed):
            assert agree(theirs(*arguments), function.right(*arguments)), arguments


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_every_slip_is_seen_in_some_case(name: str, function: Function) -> None:
    want = [function.right(*arguments) for arguments in calls(function)]
    for slip in function.slips:
        got = [outcome(slip.wrong, arguments) for arguments in calls(function)]
        assert not all(map(agree, got, want)), slip.name
        assert not isinstance(got[0], str) or isinstance(want[0], str), f"{slip.name} raises in the first case"


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_no_two_slips_are_the_same_mistake(name: str, function: Function) -> None:
    results = {slip.name: [outcome(slip.wrong, arguments) for arguments in calls(function)] for slip in function.slips}
    assert len(results) == len(function.slips), "two slips share a name"
    same = [(a, b) for a, b in combinations(results, 2) if all(map(agree, results[a], results[b]))]
    assert same == []


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_arguments_are_left_as_they_were(name: str, function: Function) -> None:
    given, again = calls(function), calls(function)
    for arguments in given:
        for computed in (function.right, *(slip.wrong for slip in function.slips)):
            outcome(computed, arguments)
    assert all(agree(list(a), list(b)) for a, b in zip(given, again, strict=True))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_what_a_slip_says(name: str, function: Function) -> None:
    for slip in function.slips:
        assert slip.name == slip.name.lower() and " " not in slip.name
        assert slip.explanation.endswith(".") and 1 < slip.explanation.count(". ") + 1 < 4, slip.name
        assert slip.hint[-1] in ".?" and not slip.says.endswith("."), slip.name


@pytest.mark.parametrize(("name", "function"), DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(name: str, function: Function) -> None:
    """`compare_function` takes JAX's derivatives of what it compares; here both sides are NumPy, so a pullback is used."""
    for arguments in calls(function):
        out, pullback = function.vjp(*arguments)  # type: ignore[misc]
        assert agree(out, function.right(*arguments))
        dy = np.random.default_rng(2).normal(size=np.shape(out))
        gradients = pullback(dy)
        assert len(gradients) == len(arguments)
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                assert_derivative(function.right, arguments, i, gradient, dy)


def assert_derivative(function: Any, arguments: tuple[Any, ...], i: int, gradient: Any, dy: Any) -> None:
    """Holds a gradient to differences of `function`."""
    from jaxllm.compare.finite_differences import along_directions

    row = along_directions(function, list(arguments), i, f"argument {i}", gradient, dy, 1e-6, "float64", 0)
    assert row.passed, row


assert compare_function
