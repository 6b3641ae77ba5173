"""Right solutions of pieces 8 to 16: three styles in NumPy, and JAX and PyTorch, agree with the right functions."""

from typing import Any

import jax
import numpy as np
import pytest
from learn.model_pieces import SEEDS, cases, equal, functions
from learned import STYLES, solution

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
            assert equal(theirs(*given), function.right(**case))
            assert jax.tree.all(jax.tree.map(np.array_equal, given, list(case.values())))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_jax_solutions_are_right_with_their_gradients(name: str, function: Any) -> None:
    """Gradients are those of `vjp`."""
    theirs = getattr(solution("jax", name), function.name)
    with jax.enable_x64(True):
        for case in cases(function):
            args = _arguments(case, jax.numpy.asarray)
            assert equal(theirs(*args), function.right(**case))
            if function.vjp:
                _assert_gradients(function, theirs, args, case)


def _assert_gradients(function: Any, theirs: Any, args: list[Any], case: dict[str, Any]) -> None:
    out, pullback = function.vjp(*case.values())
    dy = np.random.default_rng(3).normal(size=out.shape)
    want = pullback(dy)
    floats = [i for i, gradient in enumerate(want) if gradient is not None]

    def of_floats(*given: Any) -> Any:
        every = list(args)
        for i, x in zip(floats, given, strict=True):
            every[i] = x
        return theirs(*every)

    def pulled_back(dy: Any, *given: Any) -> Any:
        return jax.vjp(of_floats, *given)[1](dy)

    got = jax.jit(pulled_back)(jax.numpy.asarray(dy), *(args[i] for i in floats))
    for i, gradient in zip(floats, got, strict=True):
        assert jax.tree.all(jax.tree.map(equal, gradient, want[i]))


@pytest.mark.parametrize(("name", "function"), FUNCTIONS)
def test_torch_solutions_are_right(name: str, function: Any) -> None:
    """In float64, on all cases."""
    torch = pytest.importorskip("torch")
    theirs = getattr(solution("torch", name), function.name)
    for case in cases(function):
        assert equal(theirs(*_arguments(case, torch.from_numpy)), function.right(**case))
