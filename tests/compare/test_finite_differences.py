"""Derivatives by finite differences: at arguments that are all zeros, and against a wrong gradient."""

from typing import Any

import jax
import numpy as np
import pytest
from compared_functions import X, sloped

from jaxllm.compare import assert_close_to_reference

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.mark.parametrize("backward", [None, lambda x, b: (x * 2 + b, lambda dy: (2 * dy, dy.sum(0)))])
def test_the_gradient_of_an_argument_that_is_all_zeros_is_tested(backward: Any) -> None:
    """As of a bias at initialisation: the step in it is of size 1."""
    zeros, stop = np.zeros(4), jax.lax.stop_gradient
    plain = lambda x, b: x * 2 + b  # noqa: E731
    assert_close_to_reference(lambda x, b: x * 2 + b[None], plain, [X, zeros], reference_vjp=backward)
    with pytest.raises(AssertionError, match="look at gradient argument 1"):
        assert_close_to_reference(lambda x, b: x * 2 + stop(b)[None], plain, [X, zeros], reference_vjp=backward)
    nested = {"w": X, "b": np.zeros(4)}  # a leaf of zeros beside one of numbers
    with pytest.raises(AssertionError, match="look at gradient argument 0"):
        assert_close_to_reference(
            lambda p: p["w"] * 2 + stop(p["b"])[None], lambda p: p["w"] * 2 + p["b"], [nested],
            reference_vjp=backward and (lambda p: (p["w"] * 2 + p["b"], lambda dy: ({"w": 2 * dy, "b": dy.sum(0)},))),
        )  # fmt: skip


def test_a_wrong_gradient_of_a_smooth_reference_is_not_excused() -> None:
    with pytest.raises(AssertionError, match="look at gradient argument 0") as error:
        assert_close_to_reference(sloped(2.5), lambda x: x**2, [X])
    assert "not smooth" not in str(error.value) and "give reference_vjp" not in str(error.value)
