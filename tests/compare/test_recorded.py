"""Numbers that another program has saved as the reference, values alone, and references in float32."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from compared_functions import X, mish, mish_twin, mish_vjp

from jaxllm import InputError
from jaxllm.compare import assert_close_to_reference, compare_function, recorded
from jaxllm.compare.few_digits import few_digits
from jaxllm.pretrained.safetensors import write_tensors

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def two(x: Any) -> Any:
    return {"a": mish(x), "b": {"c": 2 * x}}


def test_recorded_numbers_in_place_of_a_function() -> None:
    report = assert_close_to_reference(mish, mish_twin(X), [X], dtype="float64")
    assert [row.stage for row in report.rows] == ["value"]
    with pytest.raises(AssertionError, match="look at value result first"):
        assert_close_to_reference(mish, 1.001 * mish_twin(X), [X])
    report = assert_close_to_reference(two, {"a": mish_twin(X), "b/c": 2 * X}, [X])
    assert [row.name for row in report.rows] == ["result/a", "result/b/c"]


def test_what_was_not_recorded_is_held_to_nothing() -> None:
    report = assert_close_to_reference(two, {"b": {"c": 2 * X}}, [X])
    assert [(row.name, row.verdict) for row in report.rows] == [
        ("result/b/c", "ok"), ("result/a", "held to nothing")
    ]  # fmt: skip
    assert not compare_function(two, {"b": {"c": 3 * X}}, [X]).passed


def test_a_file_of_recorded_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "torch.npz", **{"h.0": mish_twin(X), "h.1": 2 * X})
    assert_close_to_reference(mish, recorded(tmp_path / "torch.npz", "h.0"), [X], dtype="float64")
    by_name = recorded(tmp_path / "torch.npz", {"a": "h.0", "b/c": "h.1"})
    assert len(assert_close_to_reference(two, by_name, [X]).rows) == 2
    assert sorted(recorded(tmp_path / "torch.npz")) == ["h.0", "h.1"]


def test_names_that_fit_nothing_are_answered_with_those_there_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "torch.npz", **{"h.0": X, "h.1": X})
    for names in ("h", {"a": "h.0", "b": "h"}):
        with pytest.raises(InputError, match=r"holds no 'h'; the names in it are 'h\.0', 'h\.1'\."):
            recorded(tmp_path / "torch.npz", names)
    with pytest.raises(
        InputError, match="the recorded numbers are named 'result/h', but fn returns 'result/a', 'result/b/c'"
    ):
        compare_function(two, {"h": X}, [X])
    with pytest.raises(ValueError, match=r"only the reference has \['result/h'\], and both have \['result/a'\]"):
        compare_function(two, lambda x: {"a": mish_twin(x), "h": x}, [X])


def test_a_safetensors_file_of_recorded_numbers(tmp_path: Path) -> None:
    path = tmp_path / "torch.safetensors"
    write_tensors(path, {"h.0": mish_twin(X), "h.1": np.asarray(2 * X, ml_dtypes.bfloat16)}, {"about": "{}"})
    assert_close_to_reference(mish, recorded(path, "h.0"), [X], dtype="float64")
    assert sorted(recorded(path)) == ["h.0", "h.1"]
    report = compare_function(lambda x: 2 * x, recorded(path, "h.1"), [X], dtype="float64")
    assert not report.passed and "the recorded numbers are in bfloat16" in report.rows[0].note


@pytest.mark.parametrize(("content", "message"), [
    (b"no archive", "is neither an .npz nor a .safetensors file; save arrays by np.savez"),
    (b"PK\x03\x04 and no more", "is no valid .npz file"),
    (b"", "is neither an .npz nor"),
    (None, "cannot read"),
    (np.ones(2), "is neither an .npz nor"),
    ({"a": np.array([{}, []], object)}, "'a.npy' holds 'object', not numbers; save arrays by np.savez"),
])  # fmt: skip
def test_a_file_that_is_none(content: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "torch.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        with path.open("wb") as file:
            np.save(file, content)
    with pytest.raises(InputError, match=message):
        recorded(path)


def test_values_alone() -> None:
    """A function without a derivative is compared, and no gradient is."""

    def searched(x: Any) -> Any:
        return jax.lax.while_loop(lambda y: jnp.abs(y).max() > 1, lambda y: y / 2, x)

    def twin(x: Any) -> Any:
        while np.abs(x).max() > 1:
            x = x / 2
        return x

    report = assert_close_to_reference(searched, twin, [X], gradients=False)
    assert [row.stage for row in report.rows] == ["value"]
    with pytest.raises(AssertionError, match="look at value result first"):
        assert_close_to_reference(searched, lambda x: 2 * twin(x), [X], gradients=False)
    with pytest.raises(ValueError, match="[Rr]everse-mode differentiation"):
        assert_close_to_reference(searched, twin, [X])


@pytest.mark.parametrize(("reference", "settings", "message"), [
    (mish_twin(X), {"reference_vjp": mish_vjp}, "reference_vjp is given, but reference_fn is recorded numbers"),
    (mish_twin, {"reference_vjp": mish_vjp, "gradients": False}, "reference_vjp is given, but gradients is False"),
    ("torch.npz", {}, "reference_fn is 'torch.npz'; read a file of numbers by jaxllm.compare.recorded"),
    ({}, {}, "nothing is recorded, but fn returns 'result'"),
])  # fmt: skip
def test_mistakes_in_the_call(reference: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_function(mish, reference, [X], **settings)


def single(x: Any) -> Any:
    return mish_twin(np.asarray(x, np.float32))


@pytest.mark.parametrize(("reference", "cause"), [
    (single, "the reference is in float32, whose rounding can be this large: let it compute in float64"),
    (lambda x: mish(jnp.asarray(x, "float32")), "the reference is JAX's and in float32"),
    (lambda x: mish(jnp.asarray(x, "bfloat16")), "the reference is JAX's and in bfloat16"),
    (single(X), "the recorded numbers are in float32, whose rounding can be this large: record them in float64"),
])  # fmt: skip
def test_a_failure_by_a_reference_in_float32_names_its_cause(reference: Any, cause: str) -> None:
    with pytest.raises(AssertionError) as failed:
        assert_close_to_reference(mish, reference, [X], dtype="float64", gradients=False)
    assert cause in str(failed.value)


@pytest.mark.parametrize("reference", [
    lambda x: 1.001 * mish_twin(x),  # in float64
    lambda x: 1.01 * single(x),  # in float32, but off by more than that explains
    lambda x: 1.01 * single(X),
    lambda x: np.round(mish_twin(x)),
])  # fmt: skip
def test_no_other_failure_is_blamed_on_float32(reference: Any) -> None:
    report = compare_function(mish, reference, [X], dtype="float64", gradients=False)
    assert not report.passed and "float32" not in report.rows[0].note


def test_an_exact_reference_of_float32_numbers_is_not_blamed() -> None:
    """Its result has few digits because its argument has: the argument is moved off their grid first."""
    nearly = lambda x: 2 * x * (1 + 5e-5)  # noqa: E731
    assert not compare_function(nearly, lambda x: 2 * x, [X], gradients=False).rows[0].note


def test_a_backward_in_float32_is_named() -> None:
    def backward(x: Any) -> Any:
        out, pullback = mish_vjp(x)
        return out, lambda dy: (pullback(dy)[0].astype(np.float32),)

    report = compare_function(mish, mish_twin, [X], reference_vjp=backward, dtype="float64")
    assert "reference_vjp is in float32" in report.rows[1].note and not report.rows[0].note
    with pytest.raises(ValueError, match="the result of reference_vjp is in float32: let it compute in float64"):
        compare_function(mish, mish_twin, [X], reference_vjp=lambda x: (single(x), mish_vjp(x)[1]), dtype="float64")


def test_a_reference_that_refuses_other_arguments_is_compared() -> None:
    def careful(x: Any) -> Any:
        assert np.array_equal(x, X)
        return 1.001 * mish_twin(x)

    assert not compare_function(mish, careful, [X], dtype="float64", gradients=False).passed


@pytest.mark.parametrize(("results", "dtype"), [
    (np.array([0.1]), None),
    (np.array([0.1], np.float32), "float32"),
    (np.array([0.1], np.float16), "float16"),
    ({"a": np.array([0.5]), "b": np.array([0.1], np.float32)}, "float32"),
    (np.array([0.5, 2.0]), "bfloat16"),
    (np.array([1.0, 3.0]), None),  # whole numbers
    (np.array([1, 3]), None),
    (np.array([np.nan, np.inf]), None),
])  # fmt: skip
def test_the_digits_of_results(results: Any, dtype: str | None) -> None:
    assert few_digits(results) == dtype
