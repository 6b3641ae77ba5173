"""The comparison itself: it must find what is wrong, say where, and stay silent otherwise."""

import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_like, random_tokens

import jaxllm.layers
import train.compare
import train.step
from jaxllm import GPT, InputError, reference
from jaxllm.attention import SelfAttention
from jaxllm.compare import (
    arithmetic,
    assert_close_to_reference,
    compare_function,
    compare_model,
    random_parameters,
)
from jaxllm.deviation import Report, Row, fold, measure
from jaxllm.layers import MLP, gelu_tanh, layer_norm
from train.cli import main
from train.config import ModelConfig, RunConfig


def row(got: Any, want: Any, dtype: str = "float32", **options: Any) -> Row:
    return measure("value", "x", got, want, 1e-5, dtype, **options)


def test_what_is_measured() -> None:
    want = np.array([1.0, -4.0, 0.5])
    assert (row(want, want).max_abs, row(want, want).ulp) == (0, 0)
    off = row(want + [0, 0, 0.004], want)
    assert (off.max_abs, off.relative) == pytest.approx((0.004, 0.001))
    assert not off.passed
    for dtype in ("float64", "float32"):
        next_number = np.nextafter(want.astype(dtype), np.asarray(9, dtype))
        assert row(next_number[1:2], want[1:2], dtype).ulp == pytest.approx(0.5)  # towards zero numbers lie closer
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
    ([1e-9, 0], [0, 0], True),  # nothing to be relative to
    ([1e-3, 0], [0, 0], False),
    ([0, 0], [1e-138, 0], True),  # there is no such float32
    ([True, False], [True, True], False),
    ([], [], True),
    ([math.nan, math.nan], [math.nan, math.nan], False),  # shows nothing
])  # fmt: skip
def test_verdicts(got: Any, want: Any, agree: bool) -> None:
    assert row(got, want).passed is agree


def errors(*relative: float) -> Report:
    return Report.of("float32", [Row("forward", f"a/{i}", (2,), e, e, 1.0, 1e-4) for i, e in enumerate(relative)])


def test_the_first_jump_is_marked() -> None:
    assert [r.jump for r in errors(0, 1e-7, 5e-7, 4e-6, 1e-3, 1e-1).rows] == [0, 0, 0, 0, 1, 0]
    assert not any(r.jump for r in errors(1e-6, 9e-6, 8e-5).rows)
    assert [r.jump for r in errors(0, 1e-7, 1.1e-5).rows] == [0, 0, 1]  # far above what was, though within tolerance
    assert [r.jump for r in errors(0, math.inf, math.inf).rows] == [0, 1, 0]


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


def mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jax.nn.softplus(x))


def mish_twin(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.log1p(np.exp(x)))


def mish_vjp(x: np.ndarray, factor: float = 1.0) -> Any:
    t = np.tanh(np.log1p(np.exp(x)))
    slope = t + x * (1 - t**2) / (1 + np.exp(-x))
    return mish_twin(x), lambda dy: (factor * dy * slope,)


X = np.random.default_rng(0).normal(size=(3, 4))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("backward", [None, mish_vjp])
def test_a_users_function(backward: Any, dtype: str) -> None:
    report = assert_close_to_reference(mish, mish_twin, [X], reference_vjp=backward, dtype=dtype)
    assert report.passed and [r.stage for r in report.rows] == ["value", "gradient"]
    assert report.rows[1].shape == ((8,) if backward is None else (3, 4))


def test_a_wrong_value_or_gradient_is_found() -> None:
    with pytest.raises(AssertionError, match=r"value result|look at value result first"):
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
    root = lambda x: jnp.sqrt(jnp.abs(x) * 0) + mish(x)  # noqa: E731  # value right, slope 0 * inf
    for backward in (None, mish_vjp):
        report = compare_function(root, mish_twin, [X], reference_vjp=backward)
        assert report.rows[0].passed and not report.rows[1].passed


def test_a_model_of_nan_does_not_agree() -> None:
    params = jax.tree.map(lambda p: p * math.nan, random_parameters(GPT(TINY)))
    rows, _ = compare_model(TINY, params, random_tokens(TINY, 1), random_tokens(TINY, 1))
    assert not any(row.passed for row in rows)
    assert "nothing but NaN in both" in str(Report.of("float32", rows))


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
    """Its gradient is zero but for rounding, so relative to itself the error would be about 1."""
    module = SelfAttention(4, use_bias=True)
    params = random_like(module.init(jax.random.key(0), jnp.asarray(X, "float32"))["params"])
    report = assert_close_to_reference(
        module, reference.attention.self_attention, [params, X], reference_vjp=reference.attention.self_attention_vjp
    )
    (bias,) = (r for r in report.rows if r.name == "argument 0/key/bias")
    assert 0 < bias.relative < 1e-5


def sloped(slope: float) -> Any:
    """x^2 with a wrong derivative."""
    f = jax.custom_jvp(lambda x: x**2)
    f.defjvp(lambda xs, ts: (xs[0] ** 2, slope * ts[0]))
    return f


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


def test_a_small_gradient_beside_a_large_one_is_seen() -> None:
    """Only what vanishes but for rounding is measured on its module's scale."""
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
    """Softmax keeps its sum: with ones for a cotangent its gradient would be 0 whatever the code does."""
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
def test_where_differences_are_of_no_use_it_says_so(fn: Any, twin: Any, x: np.ndarray) -> None:
    report = compare_function(fn, twin, [x])
    assert report.rows[0].passed
    assert report.passed or "the reference is not smooth here" in str(report) and "give reference_vjp" in str(report)
    assert compare_function(fn, twin, [x + 3]).passed


def test_differences_step_as_far_as_the_numbers_are_large() -> None:
    assert_close_to_reference(lambda x: jnp.sin(1e4 * x), lambda x: np.sin(1e4 * x), [1e-4 * X], tolerance=1e-4)


def test_no_tolerance_at_all() -> None:
    report = compare_function(
        lambda x: x, lambda x: x, [X], tolerance=0.0, reference_vjp=lambda x: (x, lambda dy: (dy,))
    )
    assert report.passed and "all 2 comparisons" in report.summary()
    assert not compare_function(lambda x: x + 1, lambda x: x, [X], tolerance=0.0).passed


def test_the_bounds_are_those_of_the_readme() -> None:
    assert jaxllm.compare.TOLERANCES == {"float64": (1e-12, 1e-10), "float32": (1e-5, 1e-5), "bfloat16": (3e-2, 3e-2)}
    assert jaxllm.compare.MODEL_TOLERANCES == {
        "float64": (1e-12, 1e-10), "float32": (1e-4, 1e-4), "bfloat16": (1e-1, 2.5e-1)
    }  # fmt: skip


@pytest.mark.parametrize(("call", "message"), [
    (lambda: compare_function(mish, mish_twin, X), "args is one ndarray, but it must be the list of arguments"),
    (lambda: compare_function(lambda x: None, lambda x: None, [X]), "fn must return arrays of real numbers"),
    (lambda: compare_function(lambda x: x * 1j, lambda x: x * 1j, [X]), "fn must return arrays of real numbers"),
    (lambda: compare_function(lambda x: (x, x), lambda x: x, [X]), r"value: only ours has \['result/0', 'result/1'\], only the reference has \['result'\]"),
    (lambda: compare_function(lambda x: {2: x, 3: x}, lambda x: {2: x}, [X]), r"only ours has \['result/3'\]"),
    (lambda: compare_function(lambda x: {"a": x}, lambda x: {"a": x, "b": x}, [X]), r"only the reference has \['result/b'\]"),
    (lambda: with_backward(lambda dy: dy), "must return a tuple of 1 gradients.* returned one ndarray"),
    (lambda: with_backward(lambda dy: (dy, dy)), "it returned 2."),
    (lambda: with_backward(lambda dy: (None,)), "reference_vjp gives None for argument 0"),
    (lambda: with_backward(lambda dy: (dy, dy), 0.7), "gives a gradient for argument 1, which is no array of floats"),
    (lambda: compare_model(TINY, {}, X, X, "float16"), "dtype is 'float16'; choose one of"),
])  # fmt: skip
def test_mistakes_in_the_call(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def with_backward(pullback: Any, *more: Any) -> Report:
    f = lambda x, *more: x  # noqa: E731
    return compare_function(f, f, [X, *more], reference_vjp=lambda x, *more: (x, pullback))


def test_another_shape_is_told() -> None:
    for backward in (None, lambda x: (x, lambda dy: (dy.reshape(1, 4),))):
        report = compare_function(lambda x: x, lambda x: x[:1], [X], reference_vjp=backward)
        assert "the reference has shape (1, 4)" in str(report)


def model_report(vocab_size: int, dtype: str = "float64") -> Report:
    config = replace(TINY, vocab_size=vocab_size)  # a size of its own, because compiled models are remembered
    rows, _ = compare_model(
        config, random_parameters(GPT(config)), random_tokens(config, 2), random_tokens(config, 2, seed=1), dtype
    )
    return Report.of(dtype, rows)


def test_the_model_agrees_and_every_intermediate_is_there() -> None:
    report = model_report(23)
    assert report.passed and not any(r.jump for r in report.rows)
    forward, backward = ({r.name for r in report.rows if r.stage == s} for s in ("forward", "backward"))
    inside = {"norm_1", "attention/query", "attention/key", "attention/value", "attention", "norm_2", "mlp/up", "mlp"}
    blocks = {f"block_{i}/{name}" for i in range(2) for name in inside} | {"block_0", "block_1"}
    ends = {"token_embedding", "position_embedding", "norm_final", "logits"}
    sown = {f"block_{i}/{name}" for i in range(2) for name in ("attention/weights", "residual_1")}
    assert forward == blocks | ends | sown | {"loss"}
    assert backward == blocks | ends
    gradients = [r.name for r in report.rows if r.stage == "gradient"]
    assert len(gradients) == 2 + 2 + 2 * 16 and gradients[-1] == "token_embedding/table"
    assert all(r.shape for r in report.rows if r.name != "loss")


def test_a_fault_in_the_forward_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jaxllm.layers.NORMS, "layer_norm", partial(layer_norm, epsilon=1e-6))
    report = model_report(24)
    assert [r.name for r in report.rows if r.jump] == ["block_0/norm_1"] == [_first_failed(report).name]
    assert "look at forward block_0/norm_1 first" in report.summary()


def test_a_fault_in_the_backward_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @jax.custom_vjp
    def wrong(x: jax.Array) -> jax.Array:
        return gelu_tanh(x)

    wrong.defvjp(lambda x: (gelu_tanh(x), x), lambda x, dy: (jax.vjp(gelu_tanh, x)[1](dy)[0] * 1.01,))
    monkeypatch.setitem(jaxllm.layers.ACTIVATIONS, "gelu_tanh", wrong)
    report = model_report(25, "float32")
    first = _first_failed(report)
    assert (first.stage, first.name, first.jump) == ("backward", "block_1/mlp/up", True)


def test_a_relu_turned_by_rounding_is_told_and_forgiven() -> None:
    """Its slope is 0 or 1 with nothing between; in float64 it does not happen and a wrong slope is found."""
    config = replace(TINY, activation="relu", d_ff=64)
    arguments = config, random_parameters(GPT(config)), random_tokens(config), random_tokens(config, seed=1)
    rows, _ = compare_model(*arguments, "bfloat16")
    told = [r for r in rows if "ReLUs on the other side of zero" in r.note]
    assert told and all(r.stage == "backward" and r.name.endswith("mlp/up") for r in told)
    assert Report.of("bfloat16", rows).passed
    rows, _ = compare_model(*arguments, "float64")
    assert not any(r.note or r.tolerance > 1e-10 for r in rows) and Report.of("float64", rows).passed


def _first_failed(report: Report) -> Row:
    return next(r for r in report.rows if not r.passed)


def test_arithmetic_is_put_back() -> None:
    before = jax.config.jax_enable_x64
    with arithmetic("float64"):
        assert jnp.ones(()).dtype == "float64"
    assert jax.config.jax_enable_x64 == before and jnp.ones(()).dtype == "float32"


def test_random_parameters_hide_nothing() -> None:
    params = random_parameters(GPT(replace(TINY, tie_embeddings=False)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.dtype == "float32" and len(np.unique(leaf)) == leaf.size, path


TINY_RUN = RunConfig(model=ModelConfig(vocab_size=19, context_length=8, d_model=8, n_layers=1, n_heads=2))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, and `jaxllm compare` without a subject on a model of the tests' size."""
    monkeypatch.setattr(train.compare, "SMALL", TINY_RUN)
    monkeypatch.setattr(train.compare, "STAND_IN", 19)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "out.json", "--out", "error.png"]) == 0
    text = capsys.readouterr().out
    for stage in ("forward", "backward", "gradient", "optimizer step: update", "optimizer step: second moment"):
        assert f"\n{stage}\n" in text
    assert "1 x 8 tokens, float32 on cpu" in text and "comparisons within tolerance" in text
    saved = json.loads((tiny / "out.json").read_text())
    assert saved["passed"] and saved["dtype"] == "float32" and saved["model"]["d_model"] == 8
    assert {"stage", "name", "shape", "max_abs", "relative", "ulp", "tolerance", "passed"} <= saved["rows"][0].keys()
    assert (tiny / "error.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["compare", "--dtype", "float64", "--batch-size", "2", "--length", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["shape"] == [2, 3] and max(r["relative"] for r in printed["rows"]) < 1e-12


@pytest.mark.parametrize(("fault", "stage"), [
    ({"beta1": 0.8}, "first moment"),
    ({"beta2": 0.9}, "second moment"),
    ({"weight_decay": 0.0}, "update"),
    ({"clip_norm": 1e-3}, "first moment"),
    ({"learning_rate": 2e-3}, "learning_rate"),
])  # fmt: skip
def test_a_fault_in_the_optimizer_is_found(
    fault: dict[str, float], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = random_like({"map": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}})
    subject = train.compare.Subject("", TINY, TINY_RUN, params, None, 3, X, X)
    gradients = random_like(params, seed=1)
    assert all(row.passed for row in train.compare.compare_optimizer(subject, gradients, "float32"))
    for name in ("make_optimizer", "learning_rate_schedule"):
        make = getattr(train.step, name)
        monkeypatch.setattr(train.compare, name, lambda c, steps, make=make: make(replace(c, **fault), steps))
    failed = [r for r in train.compare.compare_optimizer(subject, gradients, "float32") if not r.passed]
    assert any(stage in f"{r.stage} {r.name}" for r in failed)


def test_beyond_tolerance_exits_with_1(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(jaxllm.layers.NORMS, "layer_norm", partial(layer_norm, epsilon=1e-2))
    assert main(["compare", "--json", "out.json"]) == 1
    text = capsys.readouterr().out
    assert "comparisons are beyond tolerance; look at forward block_0/norm_1 first" in text
    assert text.count("<- the error jumps here") == 1
    saved = json.loads((tiny / "out.json").read_text())
    assert not saved["passed"] and not any(r["stage"].startswith("optimizer") for r in saved["rows"] if not r["passed"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--length", "9"], "--length is 9, more than model.context_length = 8"),
    (["--length", "0"], "--length is 0, but it must be at least 1"),
    (["--batch-size", "-1"], "--batch-size is -1, but it must be from 1 to 1024"),
    (["--batch-size", "99999999999"], "--batch-size is 99999999999, but it must be from 1 to 1024"),
    (["--json", "config.toml"], "--json config.toml: the name of the file must end in .json"),
    (["--out", "error.txt"], "--out error.txt: the name of the file must end in .png or .svg or .pdf"),
    (["--out", "-"], "--out -: the name of the file must end in"),
    (["--out", "folder.png"], "--out folder.png: folder.png is a folder"),
    (["absent.toml"], "cannot read the config absent.toml"),
    (["."], "no run folder: it has no config.toml"),
    (["--json", "absent/out.json"], "--json absent/out.json: there is no folder absent"),
])  # fmt: skip
def test_wrong_input(arguments: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "folder.png").mkdir()
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in tiny.rglob("*")] == ["folder.png"]


def test_a_trained_run(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own parameters, moments and text; the folder stays as it is."""
    (tiny / "text.txt").write_text("a rose is a rose is a rose. " * 30)
    (tiny / "run.toml").write_text(
        '[data]\nsource = "text.txt"\n[model]\ncontext_length = 8\nd_model = 8\nn_layers = 1\nn_heads = 2\n'
        "[train]\nsteps = 3\nbatch_size = 4\n[optimizer]\nwarmup_steps = 1\n"
    )
    assert main(["compare", "run.toml"]) == 0
    assert "run.toml, random weights, 1 x 8 tokens" in capsys.readouterr().out
    assert main(["train", "run.toml"]) == 0
    before = {p: p.read_bytes() for p in (tiny / "runs").rglob("*") if p.is_file()}
    assert main(["compare", "runs/run", "--batch-size", "3"]) == 0
    assert "runs/run, step 3, 3 x 8 tokens" in capsys.readouterr().out
    assert before == {p: p.read_bytes() for p in (tiny / "runs").rglob("*") if p.is_file()}
