"""What is said of wrong numbers beyond the catalogue: axes, dtypes, factors, offsets, shifts, NaN, gradients, two slips."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from train.learn.checking.calls import Attempt, Case, attempted, make_cases
from train.learn.checking.compare import difference
from train.learn.checking.diagnose import diagnose, differences
from train.learn.checking.gradients import diagnose_gradients, gradient_difference
from train.learn.checking.trees import mapped
from train.learn.piece import Arguments, Function, Slip

pytestmark = pytest.mark.newest


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for b, t, k in ((1, 3, 2), (2, 4, 3), (3, 5, 4), (2, 7, 5)):
        yield {"x": rng.normal(size=(b, t, k)), "mask": rng.random((t, k)) < 0.8}


def varied(x: Any, mask: Any, *, sign: int = 1, power: int = 1, add: float = 0.0) -> Any:
    return np.where(mask, sign * x**power + add, 3.0)


def slip(name: str, wrong: Callable[..., Any], **more: Any) -> Slip:
    return Slip(name, f"equals {name}", "It is so.", "Look.", wrong, **more)


DOUBLED = slip("doubled", lambda x, mask: 2 * varied(x, mask), after=lambda y, arguments: 2 * y)
FUNCTION = Function(
    "filled", varied, _cases,
    (slip("negative", partial(varied, sign=-1)), slip("square", partial(varied, power=2)), DOUBLED), axes="T K",
)  # fmt: skip
RNG = np.random.default_rng(4)
CASES = make_cases(FUNCTION, RNG)


def said(body: Callable[..., Any], function: Function = FUNCTION, cases: list[Case] = CASES) -> list[str]:
    """What is said of a body that is wrong."""
    attempts = [attempted(body, case) for case in cases]
    assert any(differences(cases, attempts)) or any(attempt.failure for attempt in attempts)
    return [one.says for one in diagnose(function, cases, attempts)]


def of(change: Callable[[Any], Any]) -> Callable[..., Any]:
    """A body that changes the right result."""
    return lambda x, mask: change(varied(x, mask))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda y: y.swapaxes(-1, -2), "has the axes T and K swapped"),
        (lambda y: y.swapaxes(-1, -2).reshape(y.shape), "has the right numbers, read in the order axis -3, K, T"),
        (lambda y: y.reshape(len(y), -1), "has the right numbers, reshaped"),
        (lambda y: y.transpose(1, 2, 0), "has its axes in the order T, K, axis -3, not axis -3, T, K"),
        (lambda y: y[..., None], "has the right numbers in the shape (1, 3, 2, 1), not (1, 3, 2)"),
        (lambda y: y[0], "has the first element along axis 0 in place of all of it"),
        (lambda y: y.sum(1), "has the sum along axis 1 in place of all of it"),
        (lambda y: y[:, ::-1], "is reversed along T"),
        (lambda y: np.concatenate([0 * y[:, :1], y[:, :-1]], 1), "is one position late along T"),
        (lambda y: np.roll(y, -1, 1), "is one position early along T"),
        (lambda y: y.astype("f"), "returns the right numbers as float32, not float64"),
        (lambda y: y.astype(np.float16), "returns the right numbers as float16, not float64"),
        (
            lambda y: y.astype("f").astype(float),
            "is right to about 5 digits only, as if a part were computed in float32",
        ),
        (lambda y: y * 0, "is zero everywhere"),
        (lambda y: 0.3 * y, "is 0.3 times the right one"),
        (lambda y: -y, "has the wrong sign"),
        (lambda y: y / y.shape[-1], "is 1/the length of the last axis of x times the right one"),
        (lambda y: y * y.shape[1] ** 0.5, "is sqrt(the length of axis -2 of x) times the right one"),
        (lambda y: y + 0.25, "is 0.25 too large everywhere"),
        (lambda y: y - 1e-5, "is 1e-05 too small everywhere"),
        (lambda y: 3 * y - 1, "is 3 times the right one, minus 1"),
    ],
)
def test_the_result_is_changed(change: Callable[[Any], Any], words: str) -> None:
    assert said(of(change)) == [words]


@pytest.mark.parametrize(
    "change",
    [
        np.sin,
        np.abs,
        lambda y: y**1.01,
        lambda y: np.sort(y, -1),
        lambda y: y + np.arange(y.shape[-1]),
        lambda y: y[:, :-1],
    ],
)
def test_no_guess(change: Callable[[Any], Any]) -> None:
    assert said(of(change)) == []


def test_a_changed_case_alone_is_no_pattern() -> None:
    """What explains some cases, and leaves the others wrong or right, is not named."""
    assert said(lambda x, mask: varied(x, mask) * (1 if len(x) == 1 else 2 if len(x) == 2 else 5)) == []


def test_slips_and_two_of_them() -> None:
    assert said(partial(varied, sign=-1)) == ["equals negative"]
    both = "equals negative, and at the same time equals square"
    assert said(partial(varied, sign=-1, power=2)) == [both]
    assert said(of(lambda y: 2 * y)) == ["equals doubled"]
    assert said(lambda x, mask: 2 * varied(x, mask, power=2)) == ["equals square, and at the same time equals doubled"]
    assert said(lambda x, mask: varied(x, mask, sign=-1).astype("f")) == ["equals negative"]


def test_twins_are_both_named() -> None:
    twin = slip("twin", lambda x, mask: varied(-x, mask))
    function = Function("filled", varied, _cases, (*FUNCTION.slips, twin))
    assert said(partial(varied, sign=-1), function) == ["equals negative", "equals twin"]


def test_a_slip_that_raises() -> None:
    def raises(x: Any, mask: Any) -> Any:
        raise KeyError("x")

    function = Function("filled", varied, _cases, (slip("raising", raises),))
    assert said(raises, function) == ["equals raising"]
    assert said(lambda x, mask: x.nothing, function) == []


def test_batch_axes() -> None:
    def cases(rng: np.random.Generator) -> Iterator[Arguments]:
        for shape in ((3, 2), (4, 3), (2, 3, 4), (2, 2, 3, 5)):
            yield {"x": rng.normal(size=shape)}

    function = Function("flipped", lambda x: x.swapaxes(-1, -2), cases)
    words = ["is right for arguments of up to 2 axes, and wrong with batch axes before them"]
    assert said(lambda x: x.T + (0 if x.ndim == 2 else np.nan), function, make_cases(function, RNG)) == words


def test_numbers_that_are_not_finite() -> None:
    nan = lambda x, mask: varied(x, mask) + np.where(mask.all(-1), 0, np.nan)[:, None]  # noqa: E731
    empty = [
        {"x": case.arguments["x"], "mask": case.arguments["mask"] & (RNG.random((case.right.shape[-2], 1)) < 0.7)}
        for case in CASES
    ]
    function = Function("filled", varied, lambda rng: iter(empty))
    cases = make_cases(function, RNG)
    gone = lambda x, mask: varied(x, mask) + np.where(mask.any(-1), 0, np.nan)[:, None]  # noqa: E731
    assert said(gone, function, cases) == ["is NaN where a row of the mask allows no position, and right elsewhere"]
    assert said(nan) == ["is NaN at some places, and right elsewhere"]
    large = Function(
        "filled", varied, lambda rng: iter([{"x": np.full((2, 2), 1e3), "mask": np.ones((2, 2), bool)}, *empty])
    )
    overflow = lambda x, mask: varied(x, mask) + 0 * np.exp(x)  # noqa: E731
    assert said(overflow, large, make_cases(large, RNG)) == ["is NaN where numbers are large, and right elsewhere"]


def test_integers() -> None:
    def cases(rng: np.random.Generator) -> Iterator[Arguments]:
        for n in (3, 5, 8):
            yield {"ids": [int(i) for i in rng.integers(0, 50, n)]}

    function = Function("kept", lambda ids: ids, cases)
    found = partial(said, function=function, cases=make_cases(function, RNG))
    assert found(lambda ids: [i + 1 for i in ids]) == ["is 1 too large everywhere"]
    assert found(lambda ids: ids[::-1]) == ["is reversed along axis -1"]
    assert found(lambda ids: [0, *ids[:-1]]) == ["is one position late along axis -1"]
    assert found(lambda ids: ids[:-1]) == []
    right = [attempted(lambda ids: [np.int32(i) for i in ids], case) for case in make_cases(function, RNG)]
    assert not any(attempt.failure for attempt in right)


def _vjp(x: Any, w: Any) -> Any:
    return x @ w, lambda dy: (dy @ w.T, x.T @ dy)


def _products(rng: np.random.Generator) -> Iterator[Arguments]:
    for n in (2, 3, 4):
        yield {"x": rng.normal(size=(n, 3)), "w": rng.normal(size=(3, n + 1))}


PRODUCT = Function("product", lambda x, w: x @ w, _products, vjp=_vjp)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda dx, dw: (0 * dx, dw), "has the right value, but its gradient with respect to x is zero"),
        (
            lambda dx, dw: (0 * dx, 0 * dw),
            "has the right value, but its gradient with respect to every argument is zero",
        ),
        (
            lambda dx, dw: (dx, 2 * dw),
            "has the right value, but its gradient with respect to w is 2 times the right one",
        ),
        (lambda dx, dw: (dx * np.nan, dw), "has the right value, but its gradient with respect to x is not finite"),
        (lambda dx, dw: (0 * dx, 2 * dw), "has wrong gradients: that of x is zero, that of w is 2 times the right one"),
        (lambda dx, dw: (np.sin(dx), dw), None),
    ],
)
def test_gradients(change: Callable[[Any, Any], Any], words: str | None) -> None:
    cases = make_cases(PRODUCT, RNG, with_gradients=True)
    attempts = [Attempt(case.right, gradients=list(change(*case.gradients))) for case in cases]
    assert any(gradient_difference(case, attempt) for case, attempt in zip(cases, attempts, strict=True))
    assert [one.says for one in diagnose_gradients(cases, attempts)] == ([words] if words else [])
    right = [Attempt(case.right, gradients=mapped(lambda g: g * (1 + 1e-13), case.gradients)) for case in cases]
    assert not any(gradient_difference(case, attempt) for case, attempt in zip(cases, right, strict=True))


@pytest.mark.parametrize(
    ("right", "mine"),
    [
        (np.arange(3.0), np.arange(3.0) * (1 + 1e-12)),
        (np.array([1.0, np.nan, np.inf]), np.array([1.0, np.nan, np.inf])),
        (np.array([1e9, 0.0]), np.array([1e9, 1e-3])),  # rounding at the size of the largest
        (np.float64(2.0), 2.0),
        (2.0, np.array(2.0)),
        (3, np.int32(3)),
        (np.array([1, 2]), np.array([1, 2], np.int32)),
        ([(1, 2)], ((1, 2),)),
        (True, np.True_),
        ({"a": np.ones(2)}, {"a": np.ones(2)}),
        ("a", "a"),
    ],
)
def test_equal_results(right: Any, mine: Any) -> None:
    assert difference(right, mine) is None


@pytest.mark.parametrize(
    ("right", "mine", "kind", "says"),
    [
        (np.ones(2), np.ones(2) + 1e-6, "value", ""),
        (np.ones(2), np.array([1, np.nan]), "value", ""),
        (np.array([True]), np.array([1]), "dtype", "returns the right numbers as int64, not bool"),
        (np.array([1]), np.array([1.0]), "dtype", "returns the right numbers as float64, not int64"),
        (np.ones(1), np.ones(1, complex), "dtype", "returns the right numbers as complex128, not float64"),
        (np.ones(1), None, "type", "returns None, not an array"),
        (np.ones(1), [1.0], "type", "returns a list, not an array"),
        ([1], np.ones(1), "type", "returns an array, not a list"),
        ([1, 2], [1], "length", "returns a list of the length 1, not 2"),
        ((np.ones(1), 2), (np.ones(1), "a"), "type", "returns a text at [1], not an integer"),
        ({"a": 1}, {"b": 1}, "type", "returns a dict without the key 'a'"),
        ({"a": 1}, {"a": 1, "b": 2}, "type", "returns a dict with the key 'b'"),
        (np.ones((2, 3)), np.ones((3, 2)), "shape", "returns an array of the shape (3, 2), not (2, 3)"),
        ("a", "b", "value", ""),
        ("a", 3, "type", "returns an integer, not a text"),
    ],
)
def test_different_results(right: Any, mine: Any, kind: str, says: str) -> None:
    found = difference(right, mine)
    assert found and (found.kind, found.says) == (kind, says)
