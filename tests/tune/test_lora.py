"""Adapters beside frozen maps: what they compute, their gradients, and what a backward keeps."""

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import SCALE, adapted, shapes_of
from flax.traverse_util import flatten_dict
from models import random_tokens

from jaxllm import InputError, fast, lora, reference
from jaxllm.compare import arithmetic
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import generate
from jaxllm.gpt import parameter_shapes, traced_once
from jaxllm.layers import dropout_mask
from jaxllm.lora import Int8Kernel, LoraKernel

pytestmark = pytest.mark.usefixtures("quick_compilation")
PATH = "block_0/mlp/up/kernel"


def logits(model: Any, params: Any, tokens: Any) -> Any:
    return jax.jit(model.apply)({"params": params}, tokens)


@pytest.mark.parametrize("way", ["fast", pytest.param("textbook", marks=pytest.mark.newest)])
@pytest.mark.parametrize("variant", ["gpt2", pytest.param("llama", marks=pytest.mark.newest)])
def test_with_b_zero_the_model_is_the_base_to_the_bit(variant: str, way: str) -> None:
    config, model, params, _ = adapted(variant)
    fresh = lora.init_adapter(jax.random.key(0), shapes_of(config), 2)
    tokens = random_tokens(config)
    with fast.off() if way == "textbook" else nullcontext():
        model = traced_once(model)
        got, want = (logits(model, p, tokens) for p in (lora.attach(params, fresh, SCALE), params))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("variant", ["gpt2", "llama"])
def test_an_adapted_model_is_the_merged_one(variant: str) -> None:
    """The logits and, by the chain rule, the gradients: dA = scale dW B^T and dB = scale A^T dW, dW by the reference."""
    with arithmetic("float64"):
        config, model, params, adapter = adapted(variant, dtype="float64")
        tokens = random_tokens(config)
        merged = lora.merge(lora.attach(params, adapter, SCALE))
        want, pullback = reference.gpt.forward_vjp(config, jax.tree.map(np.asarray, merged), tokens)
        dy = np.random.default_rng(0).normal(size=want.shape)

        def summed(adapter: Any) -> Any:
            y = model.apply({"params": lora.attach(params, adapter, SCALE)}, tokens)
            return (y * dy).sum(), y

        gradients, got = jax.jit(jax.grad(summed, has_aux=True))(adapter)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())
        d_params = flatten_dict(pullback(dy)[1])
        a_and_b = flatten_dict(adapter)
        for path, gradient in flatten_dict(gradients).items():
            d_kernel, a, b = d_params[path[:-1]], *(np.asarray(a_and_b[*path[:-1], name]) for name in "ab")
            exact = SCALE * (d_kernel @ b.T if path[-1] == "a" else a.T @ d_kernel)
            np.testing.assert_allclose(gradient, exact, rtol=0, atol=1e-11 * np.abs(exact).max())


def test_the_base_has_no_gradient() -> None:
    """No product of its shape is in the backward, and asked for, the gradient is zero."""
    x, w, a, b = (jnp.ones(shape) for shape in ((3, 5), (5, 7), (5, 2), (2, 7)))

    def loss(w: Any, a: Any) -> Any:
        return (x @ LoraKernel(w, a, b)).sum()

    text = str(jax.make_jaxpr(jax.grad(loss, argnums=1))(w, a))
    assert "f32[5,2] = dot_general" in text and "f32[5,7] = dot_general" not in text
    np.testing.assert_array_equal(jax.grad(loss)(w, a), jnp.zeros((5, 7)))


@pytest.mark.parametrize("kernel", [jnp.ones((5, 7), jnp.float32), Int8Kernel(jnp.ones((5, 7), jnp.int8), jnp.ones(7))])
def test_a_backward_keeps_a_frozen_kernel_as_it_is_stored(kernel: Any) -> None:
    """Not in the dtype of x."""
    a, b = jnp.ones((5, 1), jnp.bfloat16), jnp.ones((1, 7), jnp.bfloat16)
    kept = kept_for_backward(lambda x: x @ LoraKernel(kernel, a, b))
    stored = "int8" if isinstance(kernel, Int8Kernel) else "float32"
    assert [dtype for shape, dtype in kept if shape == (5, 7)] == [stored]


def test_a_backward_keeps_no_x_for_a_frozen_kernel() -> None:
    kernel, frozen = jnp.ones((5, 7)), jnp.ones((5, 7), jnp.int8)
    assert ((11, 5), "bfloat16") not in kept_for_backward(lambda x: x @ Int8Kernel(frozen, jnp.ones(7)))
    assert ((11, 5), "bfloat16") in kept_for_backward(
        lambda x: x @ LoraKernel(kernel, kernel, jnp.ones((7, 7)))
    )  # for A


def kept_for_backward(function: Any) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and dtypes of what a function of x, bfloat16 [11, 5], keeps."""
    pullback = jax.vjp(function, jnp.ones((11, 5), jnp.bfloat16))[1]
    return [(leaf.shape, leaf.dtype.name) for leaf in jax.tree.leaves(pullback)]


def test_dropout_is_on_the_way_to_a_only() -> None:
    key, rng = jax.random.key(3), np.random.default_rng(0)
    x, w, a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((50, 8), (8, 6), (8, 2), (2, 6)))
    keep = dropout_mask(key, x.shape, 0.5)
    want = reference.lora.lora_linear(x, w, a, b, SCALE, keep)
    np.testing.assert_allclose(x @ LoraKernel(w, a, b, key, SCALE, 0.5), want, rtol=0, atol=1e-5 * np.abs(want).max())
    plain = x @ LoraKernel(w, a, b, None, SCALE, 0.5)
    np.testing.assert_array_equal(plain, x @ LoraKernel(w, a, b, key, SCALE, 0.0))
    assert not np.allclose(plain, want)


def test_each_kernel_has_a_dropout_of_its_own() -> None:
    _, model, params, adapter = adapted()
    key = jax.random.key(0)
    leaves = [
        leaf
        for leaf in flatten_dict(lora.attach(params, adapter, SCALE, 0.5, key)).values()
        if isinstance(leaf, LoraKernel)
    ]
    assert len({str(jax.random.key_data(leaf.key)) for leaf in leaves}) == len(leaves) == 14
    tokens = random_tokens(model.config)
    first, again, other = (
        logits(traced_once(model), lora.attach(params, adapter, SCALE, 0.5, one), tokens)
        for one in (key, key, jax.random.key(1))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_an_adapter_begins_as_in_peft() -> None:
    adapter = lora.init_adapter(
        jax.random.key(0), {"block_0/mlp/up/kernel": (400, 30), "block_1/x/kernel": (400, 30)}, 8
    )
    one, other = adapter["block_0"]["mlp"]["up"]["kernel"], adapter["block_1"]["x"]["kernel"]
    assert one["a"].shape == (400, 8) and one["b"].shape == (8, 30) and one["a"].dtype == jnp.float32
    assert not one["b"].any() and not np.array_equal(one["a"], other["a"])
    bound = 400**-0.5
    assert 0.99 * bound < jnp.abs(one["a"]).max() <= bound
    assert float(one["a"].std()) == pytest.approx(bound / 3**0.5, rel=0.05)


def test_an_adapter_grows_to_another_rank() -> None:
    """The same function, in which the new directions can learn: their A is not zero."""
    config, model, params, adapter = adapted("gpt2", n_layers=1)
    fresh = lora.init_adapter(jax.random.key(5), shapes_of(config, rank=3), 3)
    part = {"block_0": {"mlp": adapter["block_0"]["mlp"]}}
    larger = lora.grown(part, fresh)
    assert jax.tree.map(jnp.shape, larger) == jax.tree.map(jnp.shape, fresh)
    tokens = random_tokens(config)
    got, want = (logits(model, lora.attach(params, one, SCALE), tokens) for one in (larger, part))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    up = larger["block_0"]["mlp"]["up"]["kernel"]
    assert up["a"][:, 2].any() and not up["b"][2].any()


def test_generation_takes_adapted_and_merged_models() -> None:
    """The same tokens, packed or not; packed logits equal those of the model up to rounding."""
    config, model, params, adapter = adapted("gpt2", n_layers=1)
    attached = lora.attach(params, adapter, SCALE)
    key, prompts = jax.random.key(0), [[1, 2, 3], [4, 5]]
    want = generate(model, pack(lora.merge(attached)), prompts, key, 4)
    np.testing.assert_array_equal(generate(model, pack(attached), prompts, key, 4), want)
    tokens = random_tokens(config)
    exact = logits(model, attached, tokens)
    for weights, most in (("float32", 1e-5), ("int8", 0.15)):
        assert np.abs(logits(model, pack(attached, weights), tokens) - exact).max() < most * np.abs(exact).max()


def test_a_merge_is_rounded_once_to_the_dtype_of_the_base() -> None:
    _, _, params, adapter = adapted(targets="mlp/up")
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    merged = flatten_dict(lora.merge(lora.attach(params, adapter, SCALE)), sep="/")
    flat, parts = flatten_dict(params, sep="/"), flatten_dict(adapter, sep="/")
    exact = np.asarray(flat[PATH], np.float64) + SCALE * np.asarray(parts[PATH + "/a"], np.float64) @ parts[PATH + "/b"]
    assert merged[PATH].dtype == jnp.bfloat16 and isinstance(merged[PATH], np.ndarray)
    np.testing.assert_array_equal(merged[PATH], exact.astype(jnp.bfloat16))
    assert merged["block_0/mlp/down/kernel"] is flat["block_0/mlp/down/kernel"]


def test_a_base_in_int8() -> None:
    """Within half a step of each column, in a quarter of the bytes; a merge makes float32 of it."""
    config, model, params, adapter = adapted(n_layers=1)
    paths = list(shapes_of(config))
    quantised = lora.quantise_base(params, paths)
    kernel, exact = flatten_dict(quantised, sep="/")[PATH], np.asarray(flatten_dict(params, sep="/")[PATH])
    assert kernel.weights.dtype == jnp.int8 and kernel.shape == exact.shape and kernel.dtype == jnp.float32
    stored = np.asarray(kernel.weights, np.float32) * np.asarray(kernel.scale)
    step = np.abs(exact).max(0) / 127
    assert (np.abs(stored - exact) <= 0.501 * step).all() and np.abs(stored - exact).max() > 0.3 * step.min()
    attached = lora.attach(quantised, adapter, SCALE)
    merged = lora.merge(attached)
    assert flatten_dict(merged, sep="/")[PATH].dtype == np.float32
    tokens = random_tokens(config)
    got, want = logits(model, attached, tokens), logits(model, merged, tokens)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
    np.testing.assert_allclose(logits(model, pack(attached), tokens), want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_maps_are_chosen_by_their_paths() -> None:
    shapes = parameter_shapes(adapted().config)
    assert len(lora.adapted_paths(shapes, None, 1)) == 14
    assert sorted(lora.adapted_paths(shapes, "query|value", 2)) == sorted(
        f"block_{i}/attention/{name}/kernel" for i in (0, 1) for name in ("query", "value")
    )
    assert lora.adapted_paths(shapes, "^block_1/mlp/down$", 8) == ["block_1/mlp/down/kernel"]


@pytest.mark.parametrize(
    ("targets", "rank", "message"),
    [
        ("q_proj", 2, r"lora.targets 'q_proj' matches none of the maps, which are block_0/.* more"),
        ("norm", 2, "matches none"),
        (".", 2, r"matches token_embedding, but only maps of blocks are adapted; use '\^block_'"),
        ("head", 2, "matches head, but only maps of blocks"),
        ("(", 2, r"lora.targets '\(' is no regular expression: "),
        ("key", 5, r"lora.rank is 5, but block_0/attention/key is \[8, 4\]; choose a rank from 1 to 4"),
        ("key", 0, "lora.rank is 0, but .* choose a rank from 1 to 4"),
    ],
)
def test_maps_that_cannot_be_adapted_are_refused(targets: str, rank: int, message: str) -> None:
    variant = "untied" if targets == "head" else "llama"
    with pytest.raises(InputError, match=message):
        lora.adapted_paths(parameter_shapes(adapted(variant).config), targets, rank)


def test_an_adapter_of_another_model_is_refused() -> None:
    params, adapter = adapted().params, adapted("qwen").adapter
    with pytest.raises(
        InputError, match=r"the adapter of 'block_0/attention/key/kernel' is \[8, 2\] and \[2, 12\], but"
    ):
        lora.attach(params, adapter, SCALE)
    with pytest.raises(InputError, match="the adapter is for 'block_9/mlp/up/kernel', which the model lacks"):
        lora.attach(params, {"block_9": {"mlp": {"up": adapter["block_0"]["mlp"]["up"]}}}, SCALE)
