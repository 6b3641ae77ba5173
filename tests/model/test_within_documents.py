"""Windows that hold several documents: with `separator` no token attends to another document."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, GPTConfig, InputError, reference
from jaxllm.attention import MultiHeadAttention
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.report import Report
from jaxllm.generate import Sampling, generate
from jaxllm.gpt import Block, apply_with_intermediates, summed_loss

CONFIG = replace(TINY, separator=3, context_length=12, **VARIANTS["grouped"])
TOKENS = np.array(
    [[5, 1, 3, 9, 3, 3, 2, 8, 1, 3, 6, 7], [3, 1, 2, 9, 4, 5, 2, 8, 1, 3, 6, 7], [7, 1, 2, 9, 4, 5, 2, 8, 1, 0, 6, 3]]
)
DOCUMENTS = np.array(
    [[0, 0, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4], [1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]]
)
SAME = DOCUMENTS[:, :, None] == DOCUMENTS[:, None, :]


def test_the_model_agrees_with_the_reference() -> None:
    """Every intermediate, the gradient there and that of each parameter, float64."""
    params = jax.device_get(random_parameters(GPT(CONFIG)))
    rows, _ = compare_model(CONFIG, params, TOKENS, random_tokens(CONFIG), "float64")
    assert Report.of("float64", rows).passed, Report.of("float64", rows)


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_the_reference_attends_within_documents() -> None:
    """Otherwise model and reference could agree by both attending across documents."""
    _, params = random_gpt(CONFIG)
    _, seen = reference.gpt.forward_with_intermediates(CONFIG, params, TOKENS)
    weights = seen["block_1/attention/weights"]
    np.testing.assert_array_equal(weights > 0, np.broadcast_to((SAME & np.tri(12, dtype=bool))[:, None], weights.shape))
    ours = apply_with_intermediates(GPT(CONFIG), params, TOKENS)[1]["block_1/attention/weights"]
    np.testing.assert_array_equal(np.asarray(ours) > 0, weights > 0)


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_documents_may_begin_with_the_id_0() -> None:
    """As in tokenizers whose end of text is their first token."""
    config = replace(CONFIG, separator=0)
    tokens = np.where(TOKENS == 3, 0, np.where(TOKENS == 0, 3, TOKENS))
    model, params = random_gpt(config)
    got, seen = apply_with_intermediates(model, params, tokens)
    hidden = ~(SAME & np.tri(12, dtype=bool))[:, None] & np.ones_like(
        np.asarray(seen["block_1/attention/weights"]), bool
    )
    for weights in (seen, reference.gpt.forward_with_intermediates(config, params, tokens)[1]):
        assert not np.asarray(weights["block_1/attention/weights"])[hidden].any()
    for row, logits in zip(tokens, got, strict=True):
        last = int(np.flatnonzero(row == 0)[-1])
        drawn = generate(model, params, [row[:11]], jax.random.key(0), 1, Sampling(0)).tolist()
        if last < 11:  # of a document that began before
            np.testing.assert_array_equal(drawn, [[int(logits[10].argmax())]])


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_other_documents_change_nothing() -> None:
    """Logits are equal to the bit, and the gradient with respect to the vectors of other documents' tokens is 0."""
    model, params = random_gpt(CONFIG)
    apply = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    before = apply(TOKENS)
    changed = np.where((DOCUMENTS == 3) | (TOKENS == 3), TOKENS, 11)
    np.testing.assert_array_equal(apply(changed)[0, 5:9], before[0, 5:9])
    assert (np.asarray(apply(changed)) != np.asarray(before))[0, :2].any()

    def logit(table: jax.Array) -> jax.Array:
        params["token_embedding"] = {"table": table}
        return model.apply({"params": params}, jnp.arange(12)[None])[0, 9, 5]  # separator 3: documents 0-2 and 3-11

    gradient = jax.grad(logit)(params["token_embedding"]["table"])
    assert not np.asarray(gradient[:3]).any() and (np.asarray(gradient[3:10]) != 0).any(-1).all()


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("lifted", [nn.remat, nn.jit], ids=["remat", "jit"])
def test_the_same_in_every_way_of_computing(lifted: Callable[[type[Block]], type[Block]]) -> None:
    """The block is then also a function of documents, which its backward must accept."""
    config = replace(CONFIG, n_layers=1)
    _, params = random_gpt(config)

    def loss(params: Any, model: GPT) -> Any:
        return summed_loss(model, params, TOKENS, TOKENS)

    value = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    want, got = value(params, GPT(config)), value(params, GPT(config, block=lifted(Block)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), want, got)
    assert abs(float(loss(params, GPT(replace(config, separator=None)))) - float(want[0])) > 1e-3


@pytest.mark.newest
@pytest.mark.usefixtures("quick_compilation")
def test_dropout_of_weights_keeps_to_the_document() -> None:
    """This path is not chunked."""
    module = MultiHeadAttention(2, dropout=0.5)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 12, 4)), jnp.float32)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    params = module.init(rngs, x)
    before, after = (
        module.apply(params, y, documents=jnp.asarray(DOCUMENTS), rngs=rngs)
        for y in (x, jnp.where((DOCUMENTS == 3)[..., None], x, 1.0))
    )
    np.testing.assert_array_equal(before[0, 5:9], after[0, 5:9])
    assert (np.asarray(before) != np.asarray(after))[0, :2].any()


def test_the_separator_is_checked() -> None:
    for wrong in (17, -1, "a"):
        with pytest.raises(InputError, match="model.separator is"):
            GPTConfig(vocab_size=17, context_length=8, d_model=8, n_layers=1, n_heads=2, separator=wrong)
