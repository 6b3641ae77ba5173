"""A change of logits or blocks by `nn.intercept_methods` holds in training, evaluation and generation."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from models import TINY, random_gpt, random_tokens

from jaxllm import GPT, InputError, fast
from jaxllm.embeddings import TokenEmbedding
from jaxllm.fast.generate import start_generation
from jaxllm.generate import Sampling, generate
from jaxllm.gpt import Block, summed_loss
from jaxllm.loss import cross_entropy
from train.config import TrainConfig
from train.state import TrainState
from train.step import make_eval_step, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compilation")

X, Y = random_tokens(TINY, 4, seed=1), random_tokens(TINY, 4, seed=2)
UNTIED = replace(TINY, tie_embeddings=False)


def capped(is_meant: Callable[[nn.Module, str], bool]) -> Any:
    """An interceptor that caps the (first) result of the methods for which `is_meant` is true."""

    def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if not is_meant(context.module, context.method_name):
            return out
        return (jnp.tanh(out[0]), *out[1:]) if isinstance(out, tuple) else jnp.tanh(out)

    return intercept


INTERCEPTED = {
    "logits of the table": (TINY, lambda module, method: method == "logits" and isinstance(module, TokenEmbedding)),
    "logits of the head": (UNTIED, lambda module, method: module.name == "head"),
    "logits of the model": (TINY, lambda module, method: isinstance(module, GPT)),
    "one block": (TINY, lambda module, method: module.name == "block_0" and method == "__call__"),
}


@pytest.mark.newest
@pytest.mark.parametrize("name", INTERCEPTED)
@pytest.mark.parametrize("remat", [False, True])
def test_training_and_evaluating_see_what_is_intercepted(name: str, remat: bool) -> None:
    """Loss and gradient are those of the logits that `apply` returns."""
    config, is_meant = INTERCEPTED[name]
    _, params = random_gpt(config)
    model, interceptor = GPT(config, block=nn.remat(Block) if remat else Block), capped(is_meant)

    def loss(params: Any) -> jax.Array:
        return cross_entropy(GPT(config).apply({"params": params}, X), Y)

    plain = jax.jit(loss)(params)
    optimizer = optax.sgd(1.0)
    state = TrainState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params), optimizer.init(params))
    step = make_train_step(model, optimizer, TrainConfig(steps=20, batch_size=4, grad_accumulation=2), lambda _: 0.0)
    with nn.intercept_methods(interceptor):
        want, gradient = jax.jit(jax.value_and_grad(loss))(params)
        state, metrics = step(state, X, Y)
        evaluated = make_eval_step(model)(params, X, Y, jnp.ones(Y.shape)) / Y.size
    assert abs(want - plain) > 1e-2
    assert metrics["train_loss"] == pytest.approx(float(want), rel=1e-5)
    assert evaluated == pytest.approx(float(want), rel=1e-5)
    moved = jax.tree.map(jnp.subtract, params, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), moved, gradient)


@pytest.mark.newest
@pytest.mark.parametrize("name", ["logits of the table", "logits of the head", "one block"])
def test_the_loss_of_the_model_sees_what_is_intercepted_in_it(name: str) -> None:
    config, is_meant = INTERCEPTED[name]
    model, params = random_gpt(config)
    weights = np.random.default_rng(0).random(Y.shape).astype(np.float32)
    with nn.intercept_methods(capped(is_meant)):
        logits = model.apply({"params": params}, X)
        want = cross_entropy(logits, Y, weights) * weights.sum()
        for got in (summed_loss(model, params, X, Y, weights), make_eval_step(model)(params, X, Y, weights)):
            assert got == pytest.approx(float(want), rel=1e-5)
        unweighted = summed_loss(model, params, X, Y)
        assert unweighted == pytest.approx(float(cross_entropy(logits, Y)) * Y.size, rel=1e-5)


@pytest.mark.newest
def test_generating_sees_what_is_intercepted_also_after_a_text_that_was_not() -> None:
    """The loop compiled for the first text is not used for the second."""
    model, params = random_gpt(TINY)

    def always(token: int) -> Any:
        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            out = call(*args, **kwargs)
            if not isinstance(context.module, GPT):
                return out
            return out[0].at[:, token].add(1e6), *out[1:]

        return nn.intercept_methods(intercept)

    def text() -> list[int]:
        return generate(model, params, [[1, 2, 3]], jax.random.key(0), 4, Sampling(0))[0].tolist()

    plain = text()
    assert plain not in ([5] * 4, [7] * 4)
    for token in (5, 7):
        with always(token):
            assert text() == [token] * 4
    assert text() == plain
    begun = start_generation(model, params, [[1, 2, 3]], jax.random.key(0), 4, Sampling(0))
    with always(5):
        assert begun.advance(3).tokens()[0].tolist() == [plain[0], 5, 5, 5]


@pytest.mark.newest
def test_generating_sees_what_is_intercepted_in_one_block() -> None:
    """And in no other."""
    model, params = random_gpt(UNTIED)

    def text() -> list[int]:
        return generate(model, params, [[1, 2, 3]], jax.random.key(0), 5)[0].tolist()

    plain = text()
    with nn.intercept_methods(capped(INTERCEPTED["one block"][1])):
        got = text()
        with fast.off():
            assert text() == got != plain


def test_a_model_with_a_call_of_its_own_is_not_trained() -> None:
    class Capped(GPT):
        @nn.compact
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return jnp.tanh(super().__call__(*args, **kwargs))

    class Named(GPT):
        """Nothing of its own."""

    config = TrainConfig(steps=20, batch_size=4)
    for make in (make_eval_step, lambda model: make_train_step(model, optax.sgd(1.0), config, lambda _: 0.0)):
        with pytest.raises(InputError, match=r"Capped has a __call__ of its own.*intercept_methods") as refused:
            make(Capped(TINY))
        assert "\n" not in str(refused.value)
        make(Named(TINY))
