"""Rows of a comparison: where an error jumps, on which scale it is, and which of equal rows is named."""

import math

import pytest

from jaxllm.compare.measure import Comparison, measure
from jaxllm.compare.report import Report, fold

pytestmark = pytest.mark.newest


def row(got: float, want: float, scale: float | None = None) -> Comparison:
    return measure("value", "x", got, want, 1e-5, "float32", scale)


def errors(*relative: float) -> Report:
    return Report.of(
        "float32", [Comparison("forward", f"a/{i}", (2,), e, e, e / 6e-8, 1e-4) for i, e in enumerate(relative)]
    )


def test_a_jump_is_from_the_largest_error_before() -> None:
    """The last one may be small: that of a norm's scale after that of its input."""
    assert not any(r.jump for r in errors(5e-6, 1e-7, 2e-5).rows)
    assert [r.jump for r in errors(1e-6, 5e-8, 2e-5).rows] == [0, 0, 1]
    assert not any(r.jump for r in errors(2**-19, 10 * 2**-19).rows)  # ten times, no more


def test_a_scale_of_nothing_is_a_scale() -> None:
    """Errors are then absolute; without one it would be that of the reference."""
    assert row(2e6 + 1, 2e6, scale=0.0).relative == 1 and row(2e6 + 1, 2e6).relative == 5e-7


def test_of_equal_rows_the_first_is_named() -> None:
    assert "closest to it is forward a/1 " in errors(1e-7, 2e-7, 2e-7).summary()
    assert [r.name for r in fold(errors(1e-7, 2e-7, 2e-7).rows)] == ["a (worst of 3: 1)"]
    assert [r.name for r in fold(errors(2e-7, math.inf, math.inf).rows)] == ["a (worst of 3: 1)"]
