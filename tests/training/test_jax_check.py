"""The check of JAX: it passes on this JAX, and refuses one that computes, or is known to compute, wrong numbers."""

import jax
import jaxlib
import numpy as np
import pytest

import train.runtime.jax_check as selfcheck
from jaxllm.utils.errors import InputError
from train.runtime.jax_check import CALLS, SQUARE, SUM, check_jax, computed_fault, known_fault


@pytest.fixture(autouse=True)
def forget() -> None:
    """Forget that JAX was checked before."""
    check_jax.cache_clear()


def test_this_jax_is_right() -> None:
    assert selfcheck.compute() == (SQUARE, SUM) == (1073741824.0, 2097152.0)
    check_jax()


def test_both_sums_are_those_of_the_reports() -> None:
    """The computations of jax-ml/jax#39103 and tensorflow/tensorflow#126812, as reported there."""
    n = selfcheck.ROWS
    x = jax.numpy.stack([jax.numpy.arange(n, dtype="float32"), *[jax.numpy.zeros(n)] * 2], axis=1)
    matrix = jax.numpy.eye(3)
    as_reported = jax.jit(lambda x: jax.vmap(lambda row: jax.numpy.sum((matrix @ row) ** 2))(x))(x)
    ones = np.ones((1024, 1), np.float32)
    squares, total = selfcheck._sums(np.asarray(x), np.eye(3, dtype=np.float32), ones)
    np.testing.assert_array_equal(squares, as_reported)
    assert float(total) == np.broadcast_to(ones, selfcheck.SHAPE).sum()


def test_nothing_is_added_up_while_compiling() -> None:
    x = jax.ShapeDtypeStruct((selfcheck.ROWS, 3), "float32")
    matrix, ones = (jax.ShapeDtypeStruct(shape, "float32") for shape in [(3, 3), (1024, 1)])
    text = selfcheck._sums.lower(x, matrix, ones).compile().as_text()
    assert text.count("parameter(") >= 3 and "f32[] constant(2097152)" not in text


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ((1071645696.0, SUM), "computes the square of 32768 as 1071645696, not 1073741824 (jax-ml/jax#39103), on cpu"),
        ((SQUARE, 2167136.0), "computes the sum of 2097152 ones as 2167136 (tensorflow/tensorflow#126812) on cpu"),
        ((float("nan"), SUM), "computes the square of 32768 as nan, not 1073741824 (jax-ml/jax#39103), on cpu"),
    ],
)
def test_a_wrong_number_is_refused_in_one_sentence(
    numbers: tuple[float, float], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selfcheck, "compute", lambda: numbers)
    with pytest.raises(InputError) as caught:
        check_jax()
    assert str(caught.value) == (
        f"jax {jax.__version__} with jaxlib {jaxlib.__version__} {said}; "
        "install jax>=0.12 on Python 3.12 or newer, 0.10.1 on 3.11."
    )


def test_a_number_that_is_wrong_now_and_then_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([(SQUARE, SUM)] * (CALLS - 1) + [(SQUARE, SUM + 1)])
    monkeypatch.setattr(selfcheck, "compute", lambda: next(calls))
    assert "as 2097153" in computed_fault()


def test_a_version_known_to_be_wrong_is_refused_on_a_cpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert known_fault("0.11.0", "gpu") == known_fault("0.11.1", "cpu") == known_fault("0.10.1", "cpu") == ""
    monkeypatch.setattr(jaxlib, "__version__", "0.11.0")
    with pytest.raises(InputError, match="jaxlib 0.11.0 returns different bits from call to call .* on cpu; install"):
        check_jax()
