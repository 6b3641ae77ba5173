"""`jaxllm.look`: what a model computes inside, the gradients there, and what changes when a value there is replaced."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, InputError, fast, look, reference
from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.generate import start_generation
from jaxllm.fast.init import init_params
from jaxllm.gpt import Block, apply_with_intermediates, interceptors
from jaxllm.loss import cross_entropy
from jaxllm.reference.attention import merge_heads, split_heads

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

X, Y = random_tokens(TINY, 2, seed=1), random_tokens(TINY, 2, seed=2)
DIRECTION = np.random.default_rng(3).normal(size=TINY.d_model).astype(np.float32)


@pytest.fixture(scope="module")
def plain() -> Any:
    """A model, its parameters, and what it computes."""
    model, params = random_gpt(TINY)
    return model, params, look(model, params, X)


def close(got: Any, want: Any, tolerance: float, name: str = "") -> None:
    """Within a tolerance relative to the largest value."""
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max(), err_msg=name)


def test_values_are_those_of_the_model(plain: Any) -> None:
    model, params, seen = plain
    logits, intermediates = apply_with_intermediates(model, params, X)
    assert seen.gradients is None and seen.intermediates.keys() == intermediates.keys()
    jax.tree.map(np.testing.assert_array_equal, (seen.logits, seen.intermediates), (logits, intermediates))
    np.testing.assert_array_equal(seen.logits, model.apply({"params": params}, X))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", ["gpt2", "qwen"])
def test_gradients_are_the_references(variant: str) -> None:
    config = replace(TINY, **VARIANTS[variant])
    model, params = random_gpt(config, "float64")
    seen = jax.device_get(jax.jit(partial(look, model))(params, X, Y))
    params = jax.device_get(params)
    wanted, gradients = reference.gpt.forward_with_intermediates(config, params, X)[1], {}
    logits, back = reference.gpt.forward_vjp(config, params, X, gradients)
    back(reference.loss.cross_entropy_vjp(logits, Y)[1](1.0)[0])
    for i in range(config.n_layers):  # the result of a head is weights v
        name = f"block_{i}/attention"
        heads = split_heads(gradients[name] @ params[f"block_{i}"]["attention"]["output"]["kernel"].T, config.n_heads)
        gradients[f"{name}/weights"] = heads @ split_heads(wanted[f"{name}/value"], config.n_heads).swapaxes(-1, -2)
    assert seen.intermediates.keys() == seen.gradients.keys() == wanted.keys() == gradients.keys()
    for name, want in wanted.items():
        close(seen.intermediates[name], want, 1e-12, name)
        close(seen.gradients[name], gradients[name], 1e-10, name)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["block_0", "block_1/residual_1", "block_1/attention/weights", "norm_final"])
def test_the_rest_is_computed_from_a_patch(name: str) -> None:
    """By the reference, from the value on. Under jit."""
    model, params = random_gpt(TINY, "float64")
    before = reference.gpt.forward_with_intermediates(TINY, jax.device_get(params), X)[1]
    x = np.random.default_rng(0).normal(size=before[name].shape)
    seen = jax.device_get(jax.jit(lambda params, x: look(model, params, X, patch={name: x}))(params, x))
    np.testing.assert_array_equal(seen.intermediates[name], x)
    close(seen.intermediates["block_0/mlp"], before["block_0/mlp"], 1e-12)
    params = jax.device_get(params)
    block = params["block_1"]
    if name.endswith("weights"):
        heads = x @ split_heads(before["block_1/attention/value"], TINY.n_heads)
        attention = reference.layers.linear_map(block["attention"]["output"], merge_heads(heads))
        name, x = "block_1/residual_1", before["block_0"] + attention
    if name == "block_1/residual_1":
        name, x = "block_1", x + reference.layers.mlp(block["mlp"], reference.layers.norm(block["norm_2"], x))
    if name == "block_0":
        name, x = "block_1", reference.gpt.block(TINY, block, x)
    x = reference.layers.norm(params["norm_final"], x) if name == "block_1" else x
    close(seen.logits, reference.embeddings.token_logits(params["token_embedding"]["table"], x), 1e-12)


def test_what_another_text_computed_makes_its_logits(plain: Any) -> None:
    """Where all that is computed passes through."""
    model, params, seen = plain
    for name in ("position_embedding", "block_0", "logits"):
        patched = look(model, params, Y, patch={name: seen.intermediates[name]})
        close(patched.logits, seen.logits, 1e-6, name)


def test_a_patch_has_gradients(plain: Any) -> None:
    """At what it is made of, for several at once by `vmap`, and at the parameters: those above an array only."""
    model, params, _ = plain

    def loss(params: Any, direction: Any) -> jax.Array:
        return cross_entropy(look(model, params, X, patch={"block_0": lambda x: x + direction}).logits, Y)

    @jax.jit
    def all_gradients(params: Any, directions: Any) -> Any:
        at_both = jax.vmap(jax.grad(loss, argnums=(0, 1)), (None, 0))(params, directions)
        seen = look(model, params, X, Y, patch={"block_0": lambda x: x + directions[1]})
        fixed = {"block_0": jnp.ones((2, 8, 8))}
        above = jax.grad(lambda params: look(model, params, X, patch=fixed).logits[..., 0].sum())(params)
        return at_both, seen.gradients["block_0"], above

    directions = jnp.stack([jnp.zeros(TINY.d_model), DIRECTION])
    (at_params, at_directions), at_block, above = jax.device_get(all_gradients(params, directions))
    want = reference.step.accumulate(TINY, jax.device_get(params), X, Y)[1]
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got[0], want, rtol=1e-4, atol=1e-6), at_params, want)
    close(at_directions[1], at_block.sum((0, 1)), 1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves((above["block_0"], above["position_embedding"])))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(above["block_1"]))


def test_the_plain_mode_has_forward_derivatives(plain: Any) -> None:
    model, params, _ = plain

    def logits(direction: Any) -> jax.Array:
        return look(model, params, X, patch={"block_0": lambda x: x + direction}).logits

    with fast.off():
        value, slope = jax.jit(lambda d: jax.jvp(logits, (jnp.zeros_like(d),), (d,)))(DIRECTION)
    _, pullback = jax.vjp(logits, jnp.zeros_like(DIRECTION))
    dy = np.random.default_rng(4).normal(size=value.shape).astype(np.float32)
    assert (slope * dy).sum() == pytest.approx(float(pullback(dy)[0] @ DIRECTION), rel=1e-4)


@pytest.mark.parametrize("block", [Block, nn.remat(Block)])
def test_dropout_is_that_of_the_model(block: type[Block]) -> None:
    """Also of the attention weights that are replaced by the same ones."""
    model, params = GPT(replace(TINY, dropout=0.5), block=block), random_gpt(TINY)[1]
    rngs = {"dropout": jax.random.key(5)}
    want = model.apply({"params": params}, X, rngs=rngs)
    seen = look(model, params, X, rngs=rngs)
    np.testing.assert_array_equal(seen.logits, want)
    again = look(model, params, X, patch={"block_1/attention/weights": lambda x: x + 0}, rngs=rngs)
    close(again.logits, want, 1e-6)
    assert np.abs(look(model, params, X).logits - want).max() > 0.1


def test_a_patch_is_around_other_interceptors(plain: Any) -> None:
    """What was seen under an interceptor, given as a patch under it, changes nothing. The others stay as they were."""
    model, params, before = plain

    def halved(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        y = call(*args, **kwargs)
        return y / 2 if context.module.name == "block_0" and context.method_name == "__call__" else y

    def spy(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        return call(*args, **kwargs)

    with nn.intercept_methods(spy), nn.intercept_methods(halved):
        seen = look(model, params, X)
        again = look(model, params, X, patch={"block_0": seen.intermediates["block_0"]})
        with pytest.raises(InputError):
            look(model, params, X, patch={"block_0": 0})
        assert interceptors() == (halved, spy)
    assert interceptors() == ()
    np.testing.assert_array_equal(again.logits, seen.logits)
    np.testing.assert_array_equal(seen.intermediates["block_0"], before.intermediates["block_0"] / 2)


class Doubled(Block):
    """A block that calls the one that it is made of, and passes its input on."""

    @nn.compact
    def __call__(self, x: Any, *carry: Any, documents: Any = None) -> Any:
        return 2 * super().__call__(x, documents), x


def test_a_block_that_calls_another_is_patched_once(plain: Any) -> None:
    """In what the next block gets first."""
    _, params, _ = plain
    model = GPT(TINY, block=Doubled)
    before = look(model, params, X)
    np.testing.assert_array_equal(before.logits, model.apply({"params": params}, X))
    after = look(model, params, X, patch={"block_1": lambda x: x + DIRECTION})
    close(after.intermediates["block_1"], before.intermediates["block_1"] + DIRECTION, 1e-6)


@pytest.mark.parametrize("block", [nn.jit(Block), nn.remat(nn.jit(Block)), nn.jit(nn.remat(Block))])
def test_blocks_traced_once_are_refused(plain: Any, block: type[Block]) -> None:
    """They keep the program of their first call, which had no patch."""
    _, params, before = plain
    model = GPT(TINY, block=block)
    for _ in range(2):
        close(model.apply({"params": params}, X), before.logits, 1e-6)
        with pytest.raises(InputError, match=r"JitBlock.*|JitCheckpointBlock.*nn.jit.*cannot tell them apart"):
            look(model, params, X, patch={"block_1": jnp.zeros((2, 8, 8))})


@pytest.fixture
def an_interceptor() -> Iterator[None]:
    with nn.intercept_methods(lambda call, args, kwargs, context: call(*args, **kwargs)):
        yield


@pytest.mark.usefixtures("an_interceptor")
def test_no_interceptor_meets_blocks_traced_once(plain: Any) -> None:
    """Generation refuses them; initial parameters are made without them."""
    model, params, _ = plain
    with pytest.raises(InputError, match="JitCachedBlock"):
        start_generation(CachedGPT(TINY, block=nn.jit(CachedBlock)), params, [[1, 2]], jax.random.key(0), 2)
    shapes = jax.eval_shape(partial(init_params, model), jax.random.key(0), X[:1, :1])
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, params)


@pytest.mark.parametrize(("patch", "message"), [
    ({"blok_1": 0}, "patch names 'blok_1', but no intermediate has that name; did you mean block_1"),
    ({"block_1/attention/output": 0}, "did you mean block_1/attention"),
    ({"x": 0}, "patch names 'x', .* valid names are block_0"),
    ({"block_1": np.zeros((2, 8, 7), np.float32)}, r"the patch of block_1 is float32 \[2, 8, 7\], .* float32 \[2, 8, 8\]"),
    ({"block_1": lambda x: x.astype("bfloat16")}, r"the patch of block_1 is bfloat16 \[2, 8, 8\], .* float32 \[2, 8, 8\]"),
    ({"block_1": lambda x: None}, "the patch of block_1 is a NoneType, but it must be an array"),
])  # fmt: skip
def test_wrong_patches(plain: Any, patch: dict[Any, Any], message: str) -> None:
    model, params, _ = plain
    with pytest.raises(InputError, match=message) as refused:
        look(model, params, X, patch=patch)
    assert "\n" not in str(refused.value)
