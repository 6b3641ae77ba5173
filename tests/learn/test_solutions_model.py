"""Right solutions of pieces 8 to 16: three styles in NumPy, and JAX and PyTorch, agree with the right functions."""

from typing import Any

import jax
import numpy as np
import pytest
from learn.model_pieces import SEEDS, cases, equal, functions
from learned import STYLES, solution

from train.learn.checking.compare import difference

pytestmark = pytest.mark.newest

FUNCTIONS = [pytest.param(name, function, id=f"{name}.{function.name}") for name, function in functions()]


def _arguments(case: dict[str, Any], array: Any) -> list[Any]:
    """The arguments by position, with `array` of each array."""
    return jax.tree.map(lambda x: array(x) if isinstance(x, np.ndarray) else x, list(case.values()))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_numpy_solutions_are_right(name: str, function: Any, style: str) -> None:
    """In float64, on all cases, without a warning, and without changing their arguments."""
    theirs = getattr(solution(style, name), function.name)
    for seed in SEEDS:
        for case in cases(function, seed):
            given = _arguments(case, np.copy)
            assert difference(function.right(**case), theirs(*given)) is None
            assert jax.tree.all(jax.tree.map(np.array_equal, given, list(case.values())))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_jax_solutions_are_right_with_their_gradients(name: str, function: Any) -> None:
    """Gradients are those of `vjp`. The cases are those by hand, large numbers among them, and that with most axes.

    Each case is one computation, which compiles faster than operation by operation.
    """
    theirs = getattr(solution("jax", name), function.name)
    of_function = cases(function)
    with jax.enable_x64(True):
        for case in (*of_function[:2], of_function[-1]):
            args = _arguments(case, jax.numpy.asarray)
            if function.vjp:
                _assert_right_in_jax(function, theirs, args, case)
            else:
                assert difference(function.right(**case), np.asarray(theirs(*args))) is None


def _assert_right_in_jax(function: Any, theirs: Any, args: list[Any], case: dict[str, Any]) -> None:
    right, pullback = function.vjp(*case.values())
    dy = np.random.default_rng(3).normal(size=right.shape)
    want = pullback(dy)
    floats = [i for i, gradient in enumerate(want) if gradient is not None]

    def of_floats(*given: Any) -> Any:
        every = list(args)
        for i, x in zip(floats, given, strict=True):
            every[i] = x
        return theirs(*every)

    def value_and_gradients(dy: Any, *given: Any) -> Any:
        value, back = jax.vjp(of_floats, *given)
        return value, back(dy)

    got, gradients = jax.jit(value_and_gradients)(jax.numpy.asarray(dy), *(args[i] for i in floats))
    assert difference(right, np.asarray(got)) is None
    for i, gradient in zip(floats, gradients, strict=True):
        assert jax.tree.all(jax.tree.map(equal, gradient, want[i]))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_torch_solutions_are_right(name: str, function: Any) -> None:
    """In float64, on all cases."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    theirs = getattr(solution("torch", name), function.name)
    for case in cases(function):
        assert difference(function.right(**case), theirs(*_arguments(case, torch.from_numpy)).numpy()) is None
