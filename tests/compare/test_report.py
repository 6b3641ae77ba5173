"""Measured errors, verdicts, the first jump of the error, and the report as text and as JSON."""

import json
import math
from typing import Any

import numpy as np
import pytest

from jaxllm.compare.measure import Comparison, held_to_nothing, measure
from jaxllm.compare.report import Report, fold

pytestmark = pytest.mark.newest


def row(got: Any, want: Any, dtype: str = "float32", **options: Any) -> Comparison:
    return measure("value", "x", got, want, 1e-5, dtype, **options)


def test_errors_are_measured() -> None:
    want = np.array([1.0, -4.0, 0.5])
    assert (row(want, want).max_abs, row(want, want).ulp) == (0, 0)
    off = row(want + [0, 0, 0.004], want)
    assert (off.max_abs, off.relative) == pytest.approx((0.004, 0.001))
    assert not off.passed
    for dtype in ("float64", "float32"):
        next_number = np.nextafter(want.astype(dtype), np.asarray(9, dtype))
        assert row(next_number[1:2], want[1:2], dtype).ulp == pytest.approx(
            0.5
        )  # numbers are closer together towards zero
        assert row(np.nextafter(want.astype(dtype), np.asarray(-9, dtype))[1:2], want[1:2], dtype).ulp == 1
    assert row(1 + 2**-7, 1.0, "bfloat16").ulp == 1
    assert row(want, want, scale=100.0).relative == 0 and row(want + 1, want, scale=100.0).relative == 0.01


@pytest.mark.parametrize(("got", "want", "agree"), [
    ([math.nan, 1], [math.nan, 1], True),
    ([math.nan, 1], [2, 1], False),
    ([2, 1], [math.nan, 1], False),
    ([-math.inf, 1], [-math.inf, 1], True),
    ([-math.inf, 1], [math.inf, 1], False),
    ([-math.inf, 1], [-1e300, 1], False),
    ([1, 2], [[1, 2]], False),
    ([1], [1, 1], False),
    ([1e-9, 0], [0, 0], True),  # the reference is 0, so errors are absolute
    ([1e-3, 0], [0, 0], False),
    ([0, 0], [1e-138, 0], True),  # too small for float32
    ([True, False], [True, True], False),
    ([], [], True),
    ([math.nan, math.nan], [math.nan, math.nan], False),  # nothing was compared
])  # fmt: skip
def test_verdicts(got: Any, want: Any, agree: bool) -> None:
    assert row(got, want).passed is agree


def errors(*relative: float) -> Report:
    return Report.of(
        "float32", [Comparison("forward", f"a/{i}", (2,), e, e, e / 6e-8, 1e-4) for i, e in enumerate(relative)]
    )


def test_the_first_jump_is_marked() -> None:
    assert [r.jump for r in errors(0, 1e-7, 5e-7, 4e-6, 1e-3, 1e-1).rows] == [0, 0, 0, 0, 1, 0]
    assert not any(r.jump for r in errors(1e-6, 9e-6, 8e-5).rows)
    assert [r.jump for r in errors(0, 1e-7, 1.1e-5).rows] == [
        0,
        0,
        1,
    ]  # far above the errors before, though within tolerance
    assert [r.jump for r in errors(0, math.inf, math.inf).rows] == [0, 1, 0]
    rounding, explained, fault = (Comparison("forward", "a", (2,), e, e, u, 0.1, note=n) for e, u, n in (
        (0.011, 1.4, ""), (0.05, 100, "its terms cancel"), (0.9, 100, "its terms cancel"),
    ))  # fmt: skip
    assert [r.jump for r in Report.of("bfloat16", [rounding, explained, fault]).rows] == [0, 0, 1]


def test_report_as_text_and_json() -> None:
    good, bad = errors(1e-7, 2e-7), errors(1e-7, math.inf, 1e-6)
    assert good.passed and "all 2 comparisons within tolerance; closest to it is forward a/1" in str(good)
    assert not bad.passed and "1 of 3 comparisons are beyond tolerance; look at forward a/1 first" in str(bad)
    assert str(bad).count("BEYOND") == 1 and str(bad).count("<- the error jumps here") == 1
    loaded = json.loads(json.dumps(bad.as_dict(), allow_nan=False))
    assert [r["passed"] for r in loaded["rows"]] == [True, False, True]
    assert loaded["rows"][1]["relative"] is None and loaded["passed"] is False
    (folded,) = fold(bad.rows)
    assert folded.name == "a (worst of 3: 1)" and not folded.passed and folded.jump


@pytest.mark.parametrize(("relative", "tolerance", "error", "bound", "passed"), [
    (0.12, 0.15, "1.2e-01", "1.5e-01", True),
    (0.149, 0.15, "1.5e-01", "1.5e-01", True),
    (0.1504, 0.15, "1.504e-01", "1.5e-01", False),
    (1.04e-5, 1e-5, "1.04e-05", "1e-05", False),
    (1e-5, 1e-5, "1.0e-05", "1e-05", True),
    (2e-7, 1.25e-6, "2.0e-07", "1.25e-06", True),
    (0.0, 0.0, "0.0e+00", "0e+00", True),
    (math.inf, 0.15, "inf", "1.5e-01", False),
])  # fmt: skip
def test_the_printed_numbers_agree_with_the_verdict(
    relative: float, tolerance: float, error: str, bound: str, passed: bool
) -> None:
    report = Report.of("bfloat16", [Comparison("forward", "a", (2,), relative, relative, 1.0, tolerance)])
    line = str(report).splitlines()[2].split()
    assert line[3:] == [error, "1", bound, "ok" if passed else "BEYOND"], line
    assert report.passed is passed
    assert not passed or report.summary().endswith(f"a with {error} of {bound}")


def test_a_jump_is_from_the_largest_error_before() -> None:
    """The last error may be small, as that of a norm's scale after that of its input."""
    assert not any(r.jump for r in errors(5e-6, 1e-7, 2e-5).rows)
    assert [r.jump for r in errors(1e-6, 5e-8, 2e-5).rows] == [0, 0, 1]
    assert not any(r.jump for r in errors(2**-19, 10 * 2**-19).rows)  # ten times and not more


def test_a_scale_of_zero_is_a_scale() -> None:
    """Errors are absolute then; without a scale they are relative to the reference."""
    assert row(2e6 + 1, 2e6, scale=0.0).relative == 1 and row(2e6 + 1, 2e6).relative == 5e-7


def test_of_equal_rows_the_first_is_named() -> None:
    assert "closest to it is forward a/1 " in errors(1e-7, 2e-7, 2e-7).summary()
    assert [r.name for r in fold(errors(1e-7, 2e-7, 2e-7).rows)] == ["a (worst of 3: 1)"]
    assert [r.name for r in fold(errors(2e-7, math.inf, math.inf).rows)] == ["a (worst of 3: 1)"]


def test_what_is_held_to_nothing_is_neither_ok_nor_beyond() -> None:
    """It stands in the table without numbers, is counted apart, and is null in JSON."""
    mine = held_to_nothing("update", {"b": {"x": np.ones(2), "y": np.ones(3)}}, "no twin")
    good = measure("value", "a", 1.0, 1.0, 1e-5, "float32")
    report = Report.of("float32", [good, *mine])
    assert report.passed and [row.verdict for row in report.rows] == ["ok", "held to nothing", "held to nothing"]
    assert not any(row.passed or row.failed or row.jump for row in report.rows[1:])
    lines = str(report).splitlines()
    assert lines[4].split() == ["b/x", "2", "-", "-", "-", "-", "held", "to", "nothing", "(no", "twin)"]
    assert "all 1 comparisons within tolerance" in lines[-1] and "2 more are held to nothing" in lines[-1]
    loaded = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert [row["passed"] for row in loaded["rows"]] == [True, None, None]
    assert [row.name for row in fold(report.rows)] == ["a", "b (2)"]
    bad = Report.of("float32", [*mine, measure("value", "a", 2.0, 1.0, 1e-5, "float32")])
    assert not bad.passed and "1 of 1 comparisons are beyond tolerance; look at value a first" in str(bad)
    assert "nothing was compared" in Report.of("float32", mine).summary()
