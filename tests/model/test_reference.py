"""The reference alone, without JAX: every hand-written derivative against differences of its function."""

from collections.abc import Callable
from functools import reduce
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from arguments import ARGUMENTS, Draw
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twins import functions

from jaxllm import reference
from jaxllm.reference import (
    attention,
    embeddings,
    experts,
    gpt,
    layers,
    logit_lens,
    lookup,
    lora,
    loss,
    multi_head,
    muon,
    optimizer,
    rotary,
    sampling,
    softcap,
    step,
)
from jaxllm.reference.arrays import leaves, tree_map
from jaxllm.reference.fast import cached_gpt, few_rows
from jaxllm.reference.layers import linear_map_vjp

pytestmark = pytest.mark.newest

MODULES = (
    attention,
    cached_gpt,
    embeddings,
    experts,
    few_rows,
    gpt,
    layers,
    logit_lens,
    lookup,
    lora,
    loss,
    multi_head,
    rotary,
    sampling,
    softcap,
)
WITHOUT_BACKWARD = {  # helpers, and the model with its intermediates, whose backward is forward_vjp
    "named", "change_of_scores", "change_of_logits", "forward_with_intermediates",
}  # fmt: skip
H = 2e-4  # of the differences


def find(name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    module, _, function = name.rpartition(".")
    home = reduce(getattr, module.split("."), reference)
    return getattr(home, function), getattr(home, f"{function}_vjp")


def test_every_function_has_a_backward_and_arguments() -> None:
    there = {
        f"{m.__name__.removeprefix('jaxllm.reference.')}.{f}"
        for m in MODULES
        for f in functions(m)
        if not f.endswith("_vjp") and f not in WITHOUT_BACKWARD
    }
    assert there == set(ARGUMENTS)


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
@settings(max_examples=30)
@given(data=st.data())
def test_the_backward_is_the_derivative(name: str, data: st.DataObject) -> None:
    """Along a random direction of each argument, so that any wrong entry of a gradient is noticed."""
    draw = Draw(data)
    arguments = ARGUMENTS[name](draw)
    function, function_vjp = find(name)
    before = [tree_map(np.copy, a) for a in arguments]
    value, pullback = function_vjp(*arguments)
    np.testing.assert_array_equal(value, function(*arguments))
    dy = draw.rng.normal(size=np.shape(value))
    gradients = pullback(dy)
    assert len(gradients) == len(arguments)
    for i, gradient in enumerate(gradients):
        if not has_derivative(arguments[i]):
            assert gradient is None
            continue
        v = tree_map(lambda x: draw.rng.normal(size=np.shape(x)), arguments[i])
        tree_map(lambda g, x: np.testing.assert_equal(np.shape(g), np.shape(x)), gradient, arguments[i])
        got = dot(gradient, v)
        want = difference(function, arguments, i, v, dy)
        size = norm_of(gradient) * norm_of(v) + abs(want) + 1e-3
        assert abs(got - want) <= 1e-7 * size, f"argument {i}: {got} by the backward, {want} by differences"
    for a, b in zip(arguments, before, strict=True):
        tree_map(np.testing.assert_array_equal, a, b)  # the arguments are unchanged


def has_derivative(x: Any) -> bool:
    return bool(leaves(x)) and all(isinstance(a, np.ndarray) and a.dtype == np.float64 for a in leaves(x))


def dot(a: Any, b: Any) -> float:
    return float(sum(np.sum(x * y) for x, y in zip(leaves(a), leaves(tree_map(lambda _, y: y, a, b)), strict=True)))


def norm_of(tree: Any) -> float:
    return float(np.sqrt(sum(np.sum(x**2) for x in leaves(tree))))


def difference(function: Callable[..., Any], arguments: list[Any], i: int, v: Any, dy: np.ndarray) -> float:
    """(8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, with an error of order h^4."""
    allowed = np.isfinite(function(*arguments))

    def at(t: float) -> float:
        y = function(*arguments[:i], tree_map(lambda x, d: x + t * d, arguments[i], v), *arguments[i + 1 :])
        assume((np.isfinite(y) == allowed).all())  # a token that enters or leaves the allowed set is a jump
        return float(np.sum(np.where(allowed, y, 0) * dy))

    return (8 * (at(H) - at(-H)) - (at(2 * H) - at(-2 * H))) / (12 * H)


@pytest.mark.parametrize("width", [1, 4, 5])
def test_differences_are_taken_far_from_kinks(width: int) -> None:
    """ReLU and the repetition penalty have a kink at 0, samplers where two logits are equal; a step is 2 H."""
    draw = object.__new__(Draw)
    draw.rng = np.random.default_rng(0)
    x = draw.spread(20_000, width)
    assert np.abs(x).min() >= 0.049 and np.diff(np.sort(x), axis=-1).min(initial=1) >= 0.69
    assert len(np.unique(x)) > 19_000 and 10 * 2 * H < 0.049  # ten standard deviations of a direction


def test_relu_has_half_a_slope_at_its_kink() -> None:
    (dx,) = layers.relu_vjp(np.array([-1.0, 0.0, 1.0]))[1](np.array([2.0, 2.0, 2.0]))
    np.testing.assert_array_equal(dx, [0, 1, 2])


def test_tokens_outside_have_no_gradient() -> None:
    d_table, none = embeddings.token_embedding_vjp(np.ones((3, 2)), np.array([0, 3, -1, 0]))[1](np.ones((4, 2)))
    np.testing.assert_array_equal(d_table, [[2, 2], [0, 0], [0, 0]])
    assert none is None


def test_a_pullback_returns_one_gradient_for_each_argument_given() -> None:
    """As with jax.vjp: two arguments give two gradients, also where a third is optional."""
    x, w, b = np.ones((2, 3)), np.ones((3, 4)), np.ones(4)
    for arguments in ([x, w], [x, w, b]):
        assert len(layers.linear_vjp(*arguments)[1](np.ones((2, 4)))) == len(arguments)
    assert len(linear_map_vjp({"kernel": w}, x)[1](np.ones((2, 4)))) == 2


CONFIG = SimpleNamespace(
    schedule="cosine",
    learning_rate=0.1,
    min_learning_rate=0.01,
    warmup_steps=4,
    decay_share=0.25,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.1,
    clip_norm=1.0,
)


def test_the_schedule_by_its_corners() -> None:
    rates = [optimizer.learning_rate(CONFIG, 20, s) for s in range(30)]
    np.testing.assert_allclose(rates[:4], [0.02, 0.04, 0.06, 0.08])
    assert rates[4] == pytest.approx(0.1) and rates[12] == pytest.approx(0.055)
    np.testing.assert_allclose(rates[20:], 0.01)


@pytest.mark.parametrize(
    ("schedule", "begin", "middle", "end"),
    [
        ("wsd", (15, 0.1), (17.5, 0.055), 0.01),
        ("linear", (4, 0.1), (12, 0.055), 0.01),
        ("constant", (4, 0.1), (12, 0.1), 0.1),
    ],
)
def test_the_other_schedules_by_their_corners(schedule: str, begin: Any, middle: Any, end: float) -> None:
    config = SimpleNamespace(**vars(CONFIG) | {"schedule": schedule})
    rates = [optimizer.learning_rate(config, 20, s) for s in range(30)]
    np.testing.assert_allclose(rates[:4], [0.02, 0.04, 0.06, 0.08])
    np.testing.assert_allclose(rates[4 : begin[0] + 1], 0.1)
    for at, rate in (begin, middle):
        assert optimizer.learning_rate(config, 20, at) == pytest.approx(rate)
    np.testing.assert_allclose(rates[20:], end)


@pytest.mark.parametrize("shape", [(3, 5), (6, 2), (4, 4), (1, 3)])
def test_newton_schulz_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    """The singular values are those that the quintic makes of the values of x / |x|, and near 1."""
    x = np.random.default_rng(0).normal(size=shape)
    u, s, v = np.linalg.svd(x / np.linalg.norm(x), full_matrices=False)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    np.testing.assert_allclose(muon.newton_schulz(x), (u * s) @ v, rtol=0, atol=1e-7)
    assert (abs(s - 1) < 0.35).all()


def test_trees_are_split_for_muon_and_merged_again() -> None:
    m, v = np.ones((2, 2)), np.ones(2)
    tree = {"head": {"kernel": m}, "block_0": {"mlp": {"up": {"kernel": 2 * m, "bias": v}}, "norm": {"scale": v}}}
    matrices, rest = muon.split(tree)
    assert list(leaves(matrices)[0][0]) == [2, 2] and len(leaves(matrices)) == 1 and len(leaves(rest)) == 3
    merged = muon.merge(matrices, rest, tree)
    assert list(merged) == list(tree) and merged["block_0"]["mlp"]["up"]["kernel"] is leaves(matrices)[0]


def test_clipping_shortens_and_never_turns() -> None:
    tree = {"a": np.array([3.0, 0.0]), "b": {"c": np.array([[4.0]])}}
    assert optimizer.global_norm(tree) == 5
    assert optimizer.clip_by_global_norm(tree, 5.0) is tree
    clipped = optimizer.clip_by_global_norm(tree, 1.0)
    np.testing.assert_allclose(clipped["a"], [0.6, 0])
    np.testing.assert_allclose(clipped["b"]["c"], [[0.8]])


def test_adamw_against_its_closed_form() -> None:
    """With the same gradient at each step both corrected means are exact: mu' = g, nu' = g^2, so a step is -lr sign(g).

    A matrix also decays; a vector does not.
    """
    params = {"matrix": np.array([[2.0, -3.0]]), "vector": np.array([2.0, -3.0])}
    gradients = tree_map(lambda p: np.full(p.shape, [1e-3, -10.0]), params)
    moments = optimizer.start(params)
    for t in range(1, 4):
        updates, moments = optimizer.adamw(CONFIG, gradients, moments, params, 0.5)
        sign = -0.5 * np.array([1, -1]) / (1 + 1e-8 / np.array([1e-3, 10]))
        np.testing.assert_allclose(updates["vector"], sign, rtol=1e-12)
        np.testing.assert_allclose(updates["matrix"], [sign - 0.5 * 0.1 * params["matrix"][0]], rtol=1e-12)
        assert moments.updates == t
    np.testing.assert_allclose(moments.mu["vector"], (1 - 0.9**3) * gradients["vector"], rtol=1e-12)
    np.testing.assert_allclose(moments.nu["vector"], (1 - 0.99**3) * gradients["vector"] ** 2, rtol=1e-12)


def test_accumulated_micro_batches_are_the_full_batch() -> None:
    from models import TINY, random_gpt, random_tokens

    params = tree_map(np.asarray, random_gpt(TINY)[1])
    x, y = random_tokens(TINY, 4, seed=1), random_tokens(TINY, 4, seed=2)
    whole_loss, whole = step.accumulate(TINY, params, x, y)
    assert whole_loss == pytest.approx(float(loss.cross_entropy(gpt.forward(TINY, params, x), y)), rel=1e-12)
    for n in (2, 4):
        parts_loss, parts = step.accumulate(TINY, params, x, y, n)
        assert parts_loss == pytest.approx(whole_loss, rel=1e-12)
        tree_map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), parts, whole)
