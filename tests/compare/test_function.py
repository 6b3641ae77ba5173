"""A function beside its reference: an error is found and named, and correct functions pass."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compared_functions import X, mish, mish_twin, mish_vjp, sloped
from models import TINY, random_like

import jaxllm.layers
from jaxllm import InputError, reference
from jaxllm.attention import SelfAttention
from jaxllm.compare import (
    Report,
    assert_close_to_reference,
    compare_function,
    compare_model,
)
from jaxllm.layers import MLP

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("backward", [None, mish_vjp])
def test_a_users_function(backward: Any, dtype: str) -> None:
    report = assert_close_to_reference(mish, mish_twin, [X], reference_vjp=backward, dtype=dtype)
    assert report.passed and [r.stage for r in report.rows] == ["value", "gradient"]
    assert report.rows[1].shape == ((8,) if backward is None else (3, 4))


def test_a_wrong_value_or_gradient_is_found() -> None:
    with pytest.raises(AssertionError, match="look at value result first"):
        assert_close_to_reference(lambda x: mish(x) * 1.001, mish_twin, [X])
    with pytest.raises(AssertionError, match="look at gradient argument 0 first"):
        assert_close_to_reference(mish, mish_twin, [X], reference_vjp=partial(mish_vjp, factor=1.001))

    @jax.custom_jvp
    def wrong_slope(x: jax.Array) -> jax.Array:
        return mish(x)

    wrong_slope.defjvp(lambda xs, ts: (mish(*xs), ts[0]))
    for backward in (None, mish_vjp):
        with pytest.raises(AssertionError, match="look at gradient argument 0"):
            assert_close_to_reference(wrong_slope, mish_twin, [X], reference_vjp=backward)


def test_tolerance_is_the_dtypes_or_the_users() -> None:
    nearly = lambda x: mish(x) * (1 + 1e-8)  # noqa: E731
    assert_close_to_reference(nearly, mish_twin, [X], reference_vjp=mish_vjp)
    with pytest.raises(AssertionError):
        assert_close_to_reference(nearly, mish_twin, [X], reference_vjp=mish_vjp, dtype="float64")
    assert_close_to_reference(
        nearly, mish_twin, [X], reference_vjp=mish_vjp, dtype="float64", tolerance=1e-7, gradient_tolerance=1e-7
    )
    with pytest.raises(InputError, match="dtype is 'float16'; choose one of float64, float32, bfloat16"):
        assert_close_to_reference(mish, mish_twin, [X], dtype="float16")


def test_a_nan_gradient_is_found() -> None:
    root = lambda x: jnp.sqrt(jnp.abs(x) * 0) + mish(x)  # noqa: E731  # the value is right, the slope 0 * inf
    for backward in (None, mish_vjp):
        report = compare_function(root, mish_twin, [X], reference_vjp=backward)
        assert report.rows[0].passed and not report.rows[1].passed


def test_modules_integers_and_several_results() -> None:
    module = MLP(5)
    params = module.init(jax.random.key(0), jnp.asarray(X, "float32"))["params"]
    assert_close_to_reference(module, reference.layers.mlp, [params, X], dtype="float64")
    report = assert_close_to_reference(
        module, reference.layers.mlp, [params, X], reference_vjp=reference.layers.mlp_vjp, dtype="float64"
    )
    assert {"argument 0/up/kernel", "argument 0/down/bias", "argument 1"} <= {r.name for r in report.rows}
    rows = assert_close_to_reference(
        lambda x, n: {"twice": 2 * x[:n], "sum": x.sum()}, lambda x, n: {"twice": 2 * x[:n], "sum": x.sum()}, [X, 2]
    ).rows
    assert {r.name for r in rows[:2]} == {"result/sum", "result/twice"}
    table, tokens = X, np.array([[0, 2], [2, 1]])
    assert_close_to_reference(
        jaxllm.embeddings.token_embedding, reference.embeddings.token_embedding, [table, tokens],
        reference_vjp=reference.embeddings.token_embedding_vjp,
    )  # fmt: skip
    assert_close_to_reference(lambda x: x > 0, lambda x: x > 0, [X])


def test_a_keys_bias_is_measured_with_its_kernel() -> None:
    """Its gradient is zero but for rounding, so the error relative to itself is about 1."""
    module = SelfAttention(4, use_bias=True)
    params = random_like(module.init(jax.random.key(0), jnp.asarray(X, "float32"))["params"])
    report = assert_close_to_reference(
        module, reference.attention.self_attention, [params, X], reference_vjp=reference.attention.self_attention_vjp
    )
    (bias,) = (r for r in report.rows if r.name == "argument 0/key/bias")
    assert 0 < bias.relative < 1e-5


@pytest.mark.parametrize(("fn", "twin", "args", "result"), [
    (lambda f: lambda x: (f(x), x.argmax()), lambda x: (x**2, x.argmax()), [X], "result beside an integer"),
    (lambda f: lambda d: f(d["x"]), lambda d: d["x"] ** 2, [{"x": X, "n": np.array(2)}], "argument beside an integer"),
    (lambda f: lambda d: f(d["x"]), lambda d: d["x"] ** 2, [{"x": X, "n": 2.0}], "argument beside a number"),
    (lambda f: lambda xs: f(xs[0]) + xs[1], lambda xs: xs[0] ** 2 + xs[1], [[X, X]], "list"),
    (lambda f: f, lambda x: x**2, [np.asarray(0.7)], "0-d array"),
    (lambda f: f, lambda x: x**2, [np.float64(0.7)], "NumPy number"),
    (lambda f: lambda x: {"a": (f(x), 1.0)}, lambda x: {"a": (x**2, 1.0)}, [X], "nested result with a number"),
    (lambda f: lambda x, key: f(x), lambda x, key: x**2, [jnp.asarray(X, "float32"), jax.random.key(0)], "beside a key"),
], ids=lambda v: v if isinstance(v, str) else "")  # fmt: skip
def test_no_gradient_is_left_out(fn: Any, twin: Any, args: Any, result: str) -> None:
    def backward(*args: Any) -> Any:
        def pullback(dy: Any) -> Any:
            dy = dy["a"][0] if isinstance(dy, dict) else dy[0] if isinstance(dy, tuple) else dy
            x = args[0]
            if isinstance(x, list):
                first: Any = [2 * x[0] * dy, dy]
            else:
                first = {"x": 2 * x["x"] * dy, "n": None} if isinstance(x, dict) else 2 * x * dy
            return first, *[None] * (len(args) - 1)

        return twin(*args), pullback

    for reference_vjp in (backward, None):
        assert_close_to_reference(fn(lambda x: x**2), twin, args, reference_vjp=reference_vjp)
        with pytest.raises(AssertionError, match="look at gradient argument 0"):
            assert_close_to_reference(fn(sloped(7.0)), twin, args, reference_vjp=reference_vjp)


def test_each_result_has_its_own_scale_and_integers_are_equal() -> None:
    with pytest.raises(AssertionError, match="look at value result/loss first"):
        assert_close_to_reference(
            lambda x: {"logits": 1e7 * x, "loss": 3 * x.sum()}, lambda x: {"logits": 1e7 * x, "loss": x.sum()}, [X]
        )
    for dtype in ("bfloat16", "float32"):
        with pytest.raises(AssertionError, match="look at value result first"):
            assert_close_to_reference(lambda x: jnp.arange(1000) + 1, lambda x: np.arange(1000), [X], dtype=dtype)


def test_a_small_gradient_beside_a_large_one_is_compared() -> None:
    """Only gradients that are zero but for rounding are measured on the scale of their module."""
    params = {"w": X, "b": np.ones(4)}
    stop = jax.lax.stop_gradient
    for ours, right in (
        (lambda p: 3e5 * p["w"] + p["b"][None], True),
        (lambda p: 3e5 * p["w"] + stop(p["b"])[None], False),
    ):
        report = compare_function(
            ours, lambda p: 3e5 * p["w"] + p["b"], [params], tolerance=1e-3,
            reference_vjp=lambda p: (3e5 * p["w"] + p["b"], lambda dy: ({"w": 3e5 * dy, "b": dy.sum(0)},)),
        )  # fmt: skip
        assert report.passed is right


def test_a_reference_that_changes_its_input_changes_nothing() -> None:
    def careless(x: np.ndarray) -> np.ndarray:
        x *= 0.5
        return 4 * x**2

    assert_close_to_reference(lambda x: x**2, careless, [X])
    for dtype in ("float32", "float64"):
        backward = lambda x: (careless(x), lambda dy: (4 * x * dy,))  # noqa: E731
        assert_close_to_reference(lambda x: x**2, careless, [X], reference_vjp=backward, dtype=dtype)


def test_cotangents_are_random() -> None:
    """The sum of a softmax is constant: with a cotangent of ones its gradient is 0, whatever the code does."""
    wrong = jax.custom_jvp(jaxllm.layers.softmax)
    wrong.defjvp(lambda xs, ts: (jaxllm.layers.softmax(*xs), 2 * jax.jvp(jaxllm.layers.softmax, xs, ts)[1]))
    twin = reference.layers.softmax
    for backward in (None, reference.layers.softmax_vjp):
        with pytest.raises(AssertionError, match="gradient argument 0"):
            assert_close_to_reference(wrong, twin, [X], reference_vjp=backward)


@pytest.mark.parametrize(("fn", "twin", "x"), [
    (jax.nn.relu, lambda x: np.maximum(x, 0), np.random.default_rng(0).normal(size=(32, 32))),
    (jnp.log, np.log, np.random.default_rng(0).random((8, 8)) / 100),
])  # fmt: skip
def test_a_note_says_where_differences_cannot_judge(fn: Any, twin: Any, x: np.ndarray) -> None:
    report = compare_function(fn, twin, [x])
    assert report.rows[0].passed
    assert report.passed or "the reference is not smooth here" in str(report) and "give reference_vjp" in str(report)
    assert compare_function(fn, twin, [x + 3]).passed


def test_the_step_of_a_difference_is_as_large_as_the_numbers() -> None:
    assert_close_to_reference(lambda x: jnp.sin(1e4 * x), lambda x: np.sin(1e4 * x), [1e-4 * X], tolerance=1e-4)


def test_a_tolerance_of_zero() -> None:
    report = compare_function(
        lambda x: x, lambda x: x, [X], tolerance=0.0, reference_vjp=lambda x: (x, lambda dy: (dy,))
    )
    assert report.passed and "all 2 comparisons" in report.summary()
    assert not compare_function(lambda x: x + 1, lambda x: x, [X], tolerance=0.0).passed


def test_the_bounds_are_those_of_the_readme() -> None:
    assert jaxllm.compare.TOLERANCES == {"float64": (1e-12, 1e-10), "float32": (1e-5, 1e-5), "bfloat16": (3e-2, 3e-2)}
    assert jaxllm.compare.MODEL_TOLERANCES == {
        "float64": (1e-12, 1e-10), "float32": (1e-4, 1e-4), "bfloat16": (1e-1, 1.5e-1)
    }  # fmt: skip


@pytest.mark.parametrize(("call", "message"), [
    (lambda: compare_function(mish, mish_twin, X), "args is one ndarray, but it must be the list of arguments"),
    (lambda: compare_function(lambda x: None, lambda x: None, [X]), "fn must return arrays of real numbers"),
    (lambda: compare_function(lambda x: x * 1j, lambda x: x * 1j, [X]), "fn must return arrays of real numbers"),
    (lambda: compare_function(lambda x: (x, x), lambda x: x, [X]), r"value: only ours has \['result/0', 'result/1'\], only the reference has \['result'\]"),
    (lambda: compare_function(lambda x: {2: x, 3: x}, lambda x: {2: x}, [X]), r"only ours has \['result/3'\]"),
    (lambda: compare_function(lambda x: {"a": x}, lambda x: {"a": x, "b": x}, [X]), r"only the reference has \['result/b'\]"),
    (lambda: compare_function(mish, mish_twin, [X], reference_vjp=lambda x: (x + 1, lambda dy: (dy,))), "reference_vjp returns another result than reference_fn, off by"),
    (lambda: with_backward(lambda dy: dy), "must return a tuple of 1 gradients.* returned one ndarray"),
    (lambda: with_backward(lambda dy: (dy, dy)), "it returned 2."),
    (lambda: with_backward(lambda dy: (None,)), "reference_vjp gives None for argument 0"),
    (lambda: with_backward(lambda dy: (dy, dy), 0.7), "gives a gradient for argument 1, which is not an array of floats"),
    (lambda: compare_model(TINY, {}, X, X, "float16"), "dtype is 'float16'; choose one of"),
])  # fmt: skip
def test_mistakes_in_the_call(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def with_backward(pullback: Any, *more: Any) -> Report:
    f = lambda x, *more: x  # noqa: E731
    return compare_function(f, f, [X, *more], reference_vjp=lambda x, *more: (x, pullback))


def test_a_different_shape_is_reported() -> None:
    for backward in (None, lambda x: (x, lambda dy: (dy.reshape(1, 4),))):
        report = compare_function(lambda x: x, lambda x: x[:1], [X], reference_vjp=backward)
        assert "the reference has shape (1, 4)" in str(report)
