"""The call of a comparison: arguments and results of any type, tolerances, and references that are not NumPy."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compared_functions import X, mish, mish_twin, mish_vjp, sloped

from jaxllm import InputError, reference
from jaxllm.attention import SelfAttention
from jaxllm.compare import assert_close_to_reference, compare_function

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def test_no_tolerance_of_gradients_means_none() -> None:
    """Differences are accurate to 1e-8: with a smaller tolerance they fail, and a note says why."""
    for bound in (0.0, 1e-16):
        report = compare_function(mish, mish_twin, [X], gradient_tolerance=bound, dtype="float64")
        row = report.rows[1]
        assert not row.passed and row.tolerance == bound and 0 < row.relative < 1e-8
        assert "differences are good to 1e-08 only" in row.note and "give reference_vjp" in row.note
        assert "not smooth" not in row.note
        report = compare_function(
            mish, mish_twin, [X], gradient_tolerance=bound, dtype="float64", reference_vjp=mish_vjp
        )
        assert report.rows[1].tolerance == bound and not report.rows[1].note
    report = assert_close_to_reference(mish, mish_twin, [X], dtype="float64")
    assert report.rows[1].tolerance == 1e-8  # the default is within the accuracy of differences


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
@pytest.mark.parametrize("backward", [None, lambda x: (2 * x, lambda dy: (2 * dy,))])
def test_an_empty_array(shape: tuple[int, ...], backward: Any) -> None:
    report = assert_close_to_reference(lambda x: 2 * x, lambda x: 2 * x, [np.ones(shape)], reference_vjp=backward)
    assert [r.max_abs for r in report.rows] == [0, 0]


def test_an_empty_array_beside_another() -> None:
    fn = lambda xs: {"sum": xs[0].sum() + (xs[1] ** 2).sum(), "empty": xs[0]}  # noqa: E731
    assert_close_to_reference(fn, fn, [[np.ones((0, 2)), X]])
    with pytest.raises(AssertionError, match="look at gradient argument 0"):
        assert_close_to_reference(
            lambda xs: {"sum": xs[0].sum() + sloped(7.0)(xs[1]).sum(), "empty": xs[0]}, fn, [[np.ones((0, 2)), X]]
        )


def scaled(x: Any, *, factor: Any = 1.0, power: int = 1, name: str = "") -> Any:
    return factor * x**power


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arguments_by_name(dtype: str) -> None:
    constants = {"power": 3, "factor": 0.5, "name": "any"}
    report = assert_close_to_reference(scaled, scaled, [X], kwargs=constants, dtype=dtype)
    assert [r.name for r in report.rows] == ["result", "argument 0, along 8 directions"]
    assert_close_to_reference(
        scaled, scaled, [X], kwargs=constants, dtype=dtype,
        reference_vjp=lambda x, **kw: (scaled(x, **kw), lambda dy: (3 * kw["factor"] * x**2 * dy,)),
    )  # fmt: skip
    with pytest.raises(AssertionError, match="look at value result first"):
        assert_close_to_reference(scaled, lambda x, *, power: x**2, [X], kwargs={"power": 3}, dtype=dtype)
    module = SelfAttention(4)
    params = module.init(jax.random.key(0), jnp.asarray(X, "float32"))["params"]
    assert_close_to_reference(
        module, lambda params, *, x: reference.attention.self_attention(params, x), [params], kwargs={"x": X},
        dtype=dtype,
    )  # fmt: skip


def test_the_gradient_of_an_argument_by_name() -> None:
    def backward(x: Any, *, factor: Any) -> Any:
        return factor * x, lambda dy: (dy * factor, (dy * x).sum(-1, keepdims=True))

    def wrong(x: Any, *, factor: Any) -> Any:
        return scaled(x, factor=jax.lax.stop_gradient(factor))

    by_name = {"factor": np.full((3, 1), 0.7)}
    for reference_vjp in (None, backward):
        report = assert_close_to_reference(scaled, scaled, [X], kwargs=by_name, reference_vjp=reference_vjp)
        names = [r.name.split(",")[0] for r in report.rows]
        assert names == ["result", "argument 0", "argument factor"]
        with pytest.raises(AssertionError, match="look at gradient argument factor"):
            assert_close_to_reference(wrong, scaled, [X], kwargs=by_name, reference_vjp=reference_vjp)
    short = lambda x, *, factor: (factor * x, lambda dy: (dy * factor,))  # noqa: E731
    with pytest.raises(ValueError, match="reference_vjp gives None for argument factor, which holds"):
        compare_function(scaled, scaled, [X], kwargs=by_name, reference_vjp=short)


@dataclass
class Plain:
    """A dataclass that is not registered with JAX."""

    logits: Any
    cache: Any = None


@jax.tree_util.register_dataclass
@dataclass
class Registered:
    """A registered dataclass with a field that is not an array."""

    logits: Any
    cache: Any = None
    name: str = field(default="x", metadata={"static": True})


class Pair(NamedTuple):
    logits: Any
    cache: Any = None


@pytest.mark.parametrize("ours", [Plain, Registered, Pair])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_results_that_are_dataclasses(ours: Any, dtype: str) -> None:
    fn = lambda x: ours(mish(x), {"n": ours(2 * x)})  # noqa: E731
    report = assert_close_to_reference(fn, lambda x: ours(mish_twin(x), {"n": ours(2 * x)}), [X], dtype=dtype)
    names = [r.name for r in report.rows]
    assert names[-1] == "argument 0, along 8 directions"
    assert names[:2] == (["result/0", "result/1/n/0"] if ours is Pair else ["result/logits", "result/cache/n/logits"])
    with pytest.raises(AssertionError, match=r"look at value result/(cache|1)/n/(logits|0) first"):
        assert_close_to_reference(fn, lambda x: ours(mish_twin(x), {"n": ours(3 * x)}), [X], dtype=dtype)
    with pytest.raises(AssertionError, match="look at gradient argument 0"):
        assert_close_to_reference(
            lambda x: ours(sloped(7.0)(x), {"n": ours(x)}), lambda x: ours(x**2, {"n": ours(x)}), [X], dtype=dtype
        )


def test_a_dataclass_beside_the_dict_of_its_fields() -> None:
    """A reference in NumPy may return a dict; an error names a field that only one of the two has."""
    as_dict = lambda x: {"logits": mish_twin(x)}  # noqa: E731
    for ours in (Plain, Registered):
        assert_close_to_reference(lambda x, ours=ours: ours(mish(x)), as_dict, [X])
        with pytest.raises(ValueError, match=r"only ours has \['result/cache'\], only the reference has \[\]"):
            compare_function(lambda x, ours=ours: ours(mish(x), x), as_dict, [X])

    def backward(x: Any) -> Any:
        return Plain(mish_twin(x)), lambda dy: mish_vjp(x)[1](dy["logits"])

    assert_close_to_reference(lambda x: Plain(mish(x)), lambda x: Plain(mish_twin(x)), [X], reference_vjp=backward)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arguments_that_are_dataclasses(dtype: str) -> None:
    args = [Registered(X, {"n": 2 * X})]
    fn = lambda c: c.logits**2 + 3 * c.cache["n"]  # noqa: E731
    backward = lambda c: (fn(c), lambda dy: (Registered(2 * c.logits * dy, {"n": 3 * dy}),))  # noqa: E731
    report = assert_close_to_reference(fn, fn, args, reference_vjp=backward, dtype=dtype)
    assert [r.name for r in report.rows[1:]] == ["argument 0/logits", "argument 0/cache/n"]
    for reference_vjp in (None, backward):
        with pytest.raises(AssertionError, match="look at gradient argument 0"):
            assert_close_to_reference(
                lambda c: sloped(7.0)(c.logits) + 3 * c.cache["n"], fn, args, reference_vjp=reference_vjp, dtype=dtype
            )


@dataclass(frozen=True)
class Checked:
    """A frozen dataclass that is not registered, with a constant, and an initialiser that must not run again."""

    weights: Any
    power: int = 2
    inner: Any = None

    def __post_init__(self) -> None:
        assert isinstance(self.weights, np.ndarray)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_arguments_that_are_dataclasses_unknown_to_jax(dtype: str) -> None:
    """`fn` and the reference get them in their own type, and the gradient of each array is compared."""
    args = [[Checked(X, inner={"n": Plain(2 * X)})], X]
    fn = lambda cs, x: cs[0].weights ** cs[0].power + 3 * cs[0].inner["n"].logits * x  # noqa: E731

    def backward(cs: Any, x: Any) -> Any:
        n = cs[0].inner["n"].logits

        def pullback(dy: Any) -> Any:
            weights = {"weights": 2 * cs[0].weights * dy, "power": None, "inner": {"n": Plain(3 * x * dy)}}
            return [weights], 3 * n * dy

        return fn(cs, x), pullback

    report = assert_close_to_reference(fn, fn, args, reference_vjp=backward, dtype=dtype)
    names = ["argument 0/0/weights", "argument 0/0/inner/n/logits", "argument 1"]
    assert sorted(r.name for r in report.rows[1:]) == sorted(names)
    stopped = lambda cs, x: cs[0].weights ** 2 + 3 * jax.lax.stop_gradient(cs[0].inner["n"].logits) * x  # noqa: E731
    for reference_vjp in (None, backward):
        with pytest.raises(AssertionError, match="look at gradient argument 0"):
            assert_close_to_reference(stopped, fn, args, reference_vjp=reference_vjp, dtype=dtype)
    by_name = lambda x, *, c: c.weights * x  # noqa: E731
    report = assert_close_to_reference(by_name, by_name, [X], kwargs={"c": Checked(X)}, dtype=dtype)
    assert [r.name.split(",")[0] for r in report.rows[1:]] == ["argument 0", "argument c"]


def test_a_dataclass_without_arrays_is_a_constant() -> None:
    fn = lambda c, x: x if c.logits is None else c.logits * x  # noqa: E731
    assert len(assert_close_to_reference(fn, fn, [Plain(None), X]).rows) == 2


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("twin", [jax.nn.softmax, jax.jit(jax.nn.softmax)])
def test_jaxs_own_function_is_a_reference(twin: Any, dtype: str) -> None:
    """It gets float64 and computes in float64."""
    assert_close_to_reference(lambda x: jnp.exp(x) / jnp.exp(x).sum(-1, keepdims=True), twin, [X], dtype=dtype)
    assert not jax.config.jax_enable_x64


@pytest.mark.parametrize("twin", [
    lambda x: mish_twin(x.astype(np.float32)),
    lambda x: mish_twin(x.astype(np.float32)).astype(np.float64),
    lambda x: {"a": mish(jnp.asarray(x, "float32"))}["a"],
    lambda x: np.asarray(mish(jnp.asarray(x, "bfloat16")), np.float64),
])  # fmt: skip
def test_a_reference_that_computes_in_float32_is_named(twin: Any) -> None:
    report = compare_function(mish, twin, [X], tolerance=1e-1)
    assert report.rows[0].passed and not report.passed
    assert "the reference computes in float32 or less" in report.rows[1].note
    assert "float64" in report.rows[1].note and "not smooth" not in report.rows[1].note


@pytest.mark.parametrize(("fn", "twin"), [(jnp.sign, np.sign), (lambda x: x > 0.5, lambda x: x > 0.5)])
def test_whole_numbers_are_not_taken_for_rounded_ones(fn: Any, twin: Any) -> None:
    """Whole numbers are numbers of float32, whatever computed them."""
    report = compare_function(lambda x: fn(x) + 0.0 * x, lambda x: twin(x) + 0.0, [np.linspace(-1e-3, 1.0, 99)])
    assert "float32 or less" not in str(report)


def test_wrong_settings_are_refused() -> None:
    x = np.ones(3)
    for settings, message in (
        ({"kwargs": [1]}, "kwargs is a list, but it must be a dict of arguments by name"),
        ({"tolerance": -1.0}, "tolerance is -1.0, but it must be 0 or more"),
        ({"gradient_tolerance": float("nan")}, "gradient_tolerance is nan, but it must be 0 or more"),
    ):
        with pytest.raises(InputError, match=message):
            compare_function(jnp.tanh, np.tanh, [x], **settings)  # type: ignore[arg-type]
