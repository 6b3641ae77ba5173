"""Pieces 8 to 16: the right functions, their gradients, and the slips."""

from functools import partial
from typing import Any

import jax
import numpy as np
import pytest
from learn.model_pieces import SEEDS, cases, equal, everywhere, functions, moderate, pairs, slips

import jaxllm
from jaxllm.compare.finite_differences import along_directions
from train.learn.course import piece

pytestmark = pytest.mark.newest

# Scores x x^T are symmetric, so both give the same weights whatever x is.
INSEPARABLE = {("simple_attention_weights", "softmax-over-queries", "weights-transposed")}
FUNCTIONS = [pytest.param(function, id=f"{name}.{function.name}") for name, function in functions()]
WITH_VJP = [p for p in FUNCTIONS if p.values[0].vjp]
SLIPS = [pytest.param(function, slip, id=f"{function.name}-{slip.name}") for function, slip in slips()]


def _attention(projected: bool) -> Any:
    """Our attention without a scale, from queries that are larger by sqrt(K)."""

    def ours(x: Any, query: Any, key: Any, value: Any) -> Any:
        q = x @ query * query.shape[-1] ** 0.5
        return jaxllm.attention.scaled_dot_product_attention(q, x @ key, x @ value)

    return ours if projected else lambda x: jaxllm.attention.attention_weights(x * x.shape[-1] ** 0.5, x)


def _module(module: Any, params: Any, *args: Any, **options: Any) -> Any:
    return module.apply({"params": params}, *args, **options)


def _config(params: Any, d_model: int, n_heads: int) -> Any:
    table = {
        name: params.get(name, {"table": np.zeros((1, 1))})["table"]
        for name in ("token_embedding", "position_embedding")
    }
    return jaxllm.GPTConfig(
        len(table["token_embedding"]), len(table["position_embedding"]), d_model=d_model, n_heads=n_heads,
        n_layers=max(1, sum(name.startswith("block_") for name in params)),
        d_ff=np.shape(params.get("block_0", params)["mlp"]["up"]["bias"])[0],
    )  # fmt: skip


def _gpt(params: Any, tokens: Any, n_heads: int) -> Any:
    config = _config(params, params["norm_final"]["scale"].size, n_heads)
    return _module(jaxllm.GPT(config), params, tokens)


OURS = {
    "softmax": lambda x: jaxllm.layers.softmax(x),
    "simple_attention_weights": _attention(projected=False),
    "simple_attention": lambda x: jaxllm.attention.simple_attention(x),
    "attention_scores": lambda x, query, key: (x @ query) @ (x @ key).T,
    "self_attention": _attention(projected=True),
    "scaled_dot_product_attention": lambda q, k, v, mask: jaxllm.attention.scaled_dot_product_attention(q, k, v, mask),
    "causal_mask": lambda length: jaxllm.attention.causal_mask(length),
    "causal_attention": lambda q, k, v: jaxllm.attention.causal_dot_product_attention(q, k, v),
    "split_heads": lambda x, n_heads: jaxllm.attention.split_heads(x, n_heads),
    "merge_heads": lambda x: jaxllm.attention.merge_heads(x),
    "multi_head_attention": lambda params, x, n_heads: _module(
        jaxllm.attention.MultiHeadAttention(n_heads), params, x
    ),
    "layer_norm": lambda x, scale, bias, epsilon: jaxllm.layers.layer_norm(x, scale, bias, epsilon),
    "gelu": lambda x: jaxllm.layers.gelu_tanh(x),
    "mlp": lambda params, x: _module(jaxllm.layers.MLP(params["up"]["bias"].size), params, x),
    "block": lambda params, x, n_heads: _module(
        jaxllm.gpt.Block(_config(params, x.shape[-1], n_heads)), params, x[None] if x.ndim == 2 else x
    ).reshape(x.shape),
    "gpt": _gpt,
}  # fmt: skip


@pytest.mark.newest
@pytest.mark.parametrize("function", FUNCTIONS)
def test_right_functions_equal_those_of_jaxllm(function: Any) -> None:
    """In float64, on all cases; for the GPT that is `GPT.apply`."""
    with jax.enable_x64(True):
        for case in cases(function):
            in_jax = jax.tree.map(lambda x: jax.numpy.asarray(x) if isinstance(x, np.ndarray) else x, case)
            np.testing.assert_allclose(OURS[function.name](**in_jax), function.right(**case), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_cases_are_finite_and_named_in_order(function: Any) -> None:
    """Right results are finite on large numbers too, and arguments by name fit those by position."""
    for seed in SEEDS:
        for case in cases(function, seed):
            assert np.isfinite(np.asarray(function.right(**case), np.float64)).all()
            assert equal(function.right(**case), function.right(*case.values()))


def test_masks_hide_and_show_in_each_row_and_column() -> None:
    """Right solutions differ where a query may attend to nothing, and no slip of the mask shows where it hides nothing."""
    (attention,) = piece("scaled_dot_product").functions
    for mask in (case["mask"] for seed in range(10) for case in cases(attention, seed) if case["mask"] is not None):
        assert all(mask.any(axis).all() and not mask.all(axis).any() for axis in (0, 1))


@pytest.mark.parametrize("function", WITH_VJP)
def test_gradients_equal_finite_differences(function: Any) -> None:
    """Of each argument that has a derivative, along random directions."""
    for case in filter(moderate, cases(function)):
        args = list(case.values())
        out, pullback = function.vjp(*args)
        assert equal(out, function.right(*args))
        dy = np.random.default_rng(5).normal(size=np.shape(out))
        gradients = pullback(dy)
        assert len(gradients) == len(args)
        checked = [i for i, gradient in enumerate(gradients) if gradient is not None]
        assert checked
        for i in checked:
            row = along_directions(function.right, args, i, list(case)[i], gradients[i], dy, 1e-7, "float64", 0)
            assert row.passed, (list(case)[i], row)


@pytest.mark.parametrize(("function", "slip"), SLIPS)
def test_a_slip_differs_from_what_is_right(function: Any, slip: Any) -> None:
    """With every seed there is a call that shows it."""
    for seed in SEEDS:
        assert not all(
            equal(slip.wrong(*case.values()), function.right(*case.values())) for case in cases(function, seed)
        )


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_variation_without_a_mistake_is_right(function: Any) -> None:
    """What slips with keywords vary is what is right, so that each has its own mistake and no other."""
    for varied in {slip.wrong.func for slip in function.slips if isinstance(slip.wrong, partial)}:
        assert everywhere(function, varied, function.right)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_slips_differ_from_each_other(function: Any) -> None:
    """Except for those that no input tells apart."""
    same = {
        (function.name, one.name, other.name)
        for one, other in pairs(function)
        if everywhere(function, one.wrong, other.wrong)
    }
    assert same == {names for names in INSEPARABLE if names[0] == function.name}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_slips_have_names_and_texts_of_their_own(function: Any) -> None:
    """A name is of lower-case words with hyphens, and each text ends a sentence or goes on as one."""
    assert len({slip.name for slip in function.slips}) == len(function.slips)
    for slip in function.slips:
        assert slip.name == slip.name.lower().replace(" ", "-")
        assert slip.says.startswith("equals ") and not slip.says.endswith(".")
        assert slip.explanation.endswith(".") and slip.hint.endswith((".", "?"))


@pytest.mark.parametrize("name", sorted({name for name, _ in functions()}))
def test_a_piece_has_at_least_six_slips(name: str) -> None:
    """The catalogue covers each piece."""
    assert piece(name).name == name
    assert sum(len(function.slips) for function in piece(name).functions) >= 6
