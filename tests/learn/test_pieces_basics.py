"""The pieces around attention: what is right, three ways to write it, and slips that differ from it and from each other."""

import re
from functools import partial
from itertools import combinations

import numpy as np
import pytest
from learned import STYLES, agree, calls, outcome, solution

from jaxllm.compare.finite_differences import along_directions
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
        assert not all(isinstance(one, str) and one.endswith("Error") for one in got), f"{slip.name} always raises"


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_no_two_slips_are_the_same_mistake(name: str, function: Function) -> None:
    results = {slip.name: [outcome(slip.wrong, arguments) for arguments in calls(function)] for slip in function.slips}
    assert len(results) == len(function.slips), "two slips share a name"
    same = [(a, b) for a, b in combinations(results, 2) if all(map(agree, results[a], results[b]))]
    assert same == []


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_a_variation_without_a_mistake_is_right(name: str, function: Function) -> None:
    """What slips with keywords vary is what is right, so that each has its own mistake and no other."""
    for varied in {slip.wrong.func for slip in function.slips if isinstance(slip.wrong, partial)}:
        for arguments in calls(function):
            assert agree(varied(*arguments), function.right(*arguments)), arguments


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
        sentences = re.findall(r"[^ ][.](?: |$)", slip.explanation)
        assert slip.explanation.endswith(".") and len(sentences) == 2, slip.name
        assert slip.hint[-1] in ".?" and not slip.says.endswith("."), slip.name


@pytest.mark.parametrize(("name", "function"), DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(name: str, function: Function) -> None:
    """Steps of differences are relative, so they say nothing of numbers of 1000, whose differences of 1 matter."""
    assert function.vjp is not None
    for arguments in calls(function):
        out, pullback = function.vjp(*arguments)
        assert agree(out, function.right(*arguments))
        dy = np.random.default_rng(2).normal(size=np.shape(out))
        gradients = pullback(dy)
        assert len(gradients) == len(arguments)
        for i, gradient in enumerate(gradients):
            if gradient is not None and np.abs(arguments[i]).max() < 100:
                assert gradient.shape == np.shape(arguments[i])
                given = (function.right, list(arguments), i, "", gradient, dy)
                row = along_directions(*given, tolerance=1e-7, dtype="float64", seed=0)
                assert row.relative <= 1e-7, (name, arguments)
