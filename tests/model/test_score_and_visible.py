"""A user's change of the scores, and rule of what is visible: the same on every path, and the published formulas."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from held import ABSOLUTE, ALIBI, DILATED, EARLIER, PLACED, PREFIX, SOFT_CAP, Held
from models import TINY, random_gpt, random_tokens

from jaxllm import GPT, GPTConfig, InputError, reference
from jaxllm.attention import attention_weights, causal_mask
from jaxllm.cache import Cache
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.report import Report
from jaxllm.fast import attention as chunked
from jaxllm.fast.cached_gpt import CachedGPT
from jaxllm.fast.generate import start_generation, why_not_cached
from jaxllm.generate import Sampling, generate
from jaxllm.gpt import Block
from train.commands.train_report import describe_attention
from train.config import RunConfig
from train.parallel.config import ParallelConfig

pytestmark = pytest.mark.usefixtures("quick_compilation")

GROUPED = replace(TINY, n_layers=1, n_heads=4, n_kv_heads=2, tie_embeddings=False)
MODELS = {
    "alibi": {"score": ALIBI, "position": "none"},
    "soft-cap": {"score": SOFT_CAP, "position": "rotary", "sliding_window": 3},
    "dilated": {"visible": DILATED},
    "placed, within documents": {"visible": ABSOLUTE, "score": PLACED, "separator": 5},
}
AHEAD = {
    "prefix": {"visible": PREFIX},
    "prefix, within documents": {"visible": PREFIX, "score": PLACED, "separator": 5},
}


@pytest.mark.parametrize(
    "name", ["placed, within documents", *(pytest.param(n, marks=pytest.mark.newest) for n in ("alibi", *AHEAD))]
)
def test_a_model_agrees_with_the_reference(name: str) -> None:
    """Every intermediate, weights included, the gradient there and that of each parameter, float64."""
    config = replace(GROUPED, **(MODELS | AHEAD)[name])
    params = jax.device_get(random_parameters(GPT(config)))
    tokens = random_tokens(config)
    tokens[:, 4] = 5
    rows, _ = compare_model(config, params, tokens, random_tokens(config, seed=1), "float64")
    assert Report.of("float64", rows).passed, Report.of("float64", rows)


@pytest.mark.parametrize("name", MODELS)
def test_the_cache_gives_the_logits_of_the_whole_text(name: str) -> None:
    """Rows padded at the left: slots are not positions. A separator inside the prompt, one after it, one at the start."""
    config = replace(GROUPED, **MODELS[name])
    model, params = random_gpt(config)
    tokens, starts = random_tokens(config), np.array([0, 2, 3])
    tokens[:, 3], tokens[1, 5], tokens[2, 0] = 5, 5, 5
    rows = np.stack([np.concatenate([np.full(s, 7), row[: 8 - s]]) for s, row in zip(starts, tokens, strict=True)])
    whole = jax.jit(partial(model.apply, {"params": params}))(tokens)
    read = jax.jit(partial(CachedGPT(config).apply, {"params": params}))
    logits, cache = read(rows[:, :5], Cache.empty(config, jnp.asarray(starts), 10))
    for slot in range(5, 9):
        want = np.stack([whole[i, slot - 1 - s] for i, s in enumerate(starts)])
        np.testing.assert_allclose(logits, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=f"slot {slot}")
        if slot < 8:
            logits, cache = read(rows[:, slot : slot + 1], cache)


@pytest.mark.parametrize(
    ("idea", "kept"), [(PREFIX, 0), (DILATED, 64), (EARLIER, 0)], ids=["prefix", "dilated kept", "earlier"]
)
def test_every_plan_gives_the_same_numbers(idea: Held, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of at most three rows, the last one padded, exponentials kept or not; a score that its place changes."""
    for name, value in (("KEPT", kept), ("SHORTEST", 2), ("LONGEST", 3)):
        monkeypatch.setattr(chunked, name, value)
    q, k, v, dout = np.random.default_rng(0).normal(size=(4, 2, 3, 25, 4))
    attend = partial(chunked.causal_dot_product_attention, rule=idea, score=PLACED)
    with jax.enable_x64(True):
        out, pullback = jax.vjp(jax.jit(attend), q, k, v)
        gradients = pullback(jnp.asarray(dout))
    want, back = reference.attention.causal_dot_product_attention_vjp(q, k, v, None, None, idea, PLACED)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-13)
    for got, wanted in zip(gradients, back(dout)[:3], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.newest
def test_beyond_the_length_whose_exponentials_are_kept() -> None:
    """In float32, at the chunks that training uses."""
    q, k, v, dout = np.random.default_rng(0).normal(size=(4, 1, 2, 600, 4)).astype("float32")
    attend = partial(chunked.causal_dot_product_attention, rule=PREFIX, score=PLACED)
    out, pullback = jax.vjp(attend, q, k, v)
    want, back = reference.attention.causal_dot_product_attention_vjp(q, k, v, None, None, PREFIX, PLACED)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-5)
    for got, wanted in zip(pullback(jnp.asarray(dout)), back(dout)[:3], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4)


def test_what_looks_ahead() -> None:
    def beyond_seven(t: Any, s: Any, *_: Any) -> Any:
        return (s <= t) | ((t == 7) & (s == 8))

    for rule, ahead in ((None, False), (DILATED, False), (ABSOLUTE, False), (PREFIX, True), (EARLIER, True)):
        for documents in (False, True):
            assert chunked.looks_ahead(rule, 9, documents) == ahead
            assert jax.jit(lambda x, r=rule, d=documents: x + chunked.looks_ahead(r, 9, d))(1) == 1 + ahead
    assert [chunked.looks_ahead(beyond_seven, length, False) for length in (8, 9)] == [False, True]
    between = Held("between", lambda t, s, dt, ds: (s <= t) | (dt != ds), None)
    assert chunked.looks_ahead(between, 9, True)
    assert chunked.chunking(1000) == (4, 1, 250) and chunked.chunking(1000, ahead=True) == (1, 4, 250)


def test_what_is_not_cached() -> None:
    """A rule that looks ahead, and blocks that the cache does not call: one reason each."""

    class Own(nn.Module):
        config: GPTConfig

        @nn.compact
        def __call__(self, x: Any, documents: Any = None) -> Any:
            return x + nn.Dense(x.shape[-1])(x)

    for config in MODELS.values():
        assert not why_not_cached(GPT(replace(GROUPED, **config)))
    assert not any(
        map(why_not_cached, (GPT(TINY, block=nn.remat(Block)), GPT(TINY, block=nn.jit(Block)), CachedGPT(TINY)))
    )
    ahead, own = GPT(replace(GROUPED, visible=PREFIX)), GPT(replace(GROUPED, block=Own))
    assert why_not_cached(ahead).startswith("model.visible is ideas.py:prefix, which lets tokens attend to later ones")
    for model in (own, GPT(GROUPED, block=Own)):
        assert "Own" in why_not_cached(model) and "does not call" in why_not_cached(model)
    for model in (ahead, own):
        _, params = random_gpt(model.config)
        with pytest.raises(InputError, match=r"; use `jaxllm.generate.generate`, which reads the whole text"):
            start_generation(model, params, [[1, 2]], jax.random.key(0), 1)
    _, params = random_gpt(ahead.config)
    logits = jax.jit(partial(ahead.apply, {"params": params}))(jnp.asarray([[1, 2]]))
    assert generate(ahead, params, [[1, 2]], jax.random.key(0), 1, Sampling(0))[0, 0] == logits[0, -1].argmax()


def test_alibi_is_the_published_one(rng: np.random.Generator) -> None:
    """Press et al. 2022, section 3: softmax(q_i K^T + m [-(i-1), ..., -2, -1, 0]), m = 2^(-8/n), 2^(-16/n), ...; n = 4."""
    q, k = rng.normal(size=(2, 4, 6, 3))
    weights = attention_weights(jnp.asarray(q), jnp.asarray(k), causal_mask(6), ALIBI)
    for head in range(4):
        for i in range(6):
            row = k[head, : i + 1] @ q[head, i] / 3**0.5 + 2.0 ** (-8 * (head + 1) / 4) * np.arange(-i, 1)
            want = np.exp(row) / np.exp(row).sum()
            np.testing.assert_allclose(weights[head, i, : i + 1], want, rtol=1e-5)


def test_the_soft_cap_is_that_of_gemma_2(rng: np.random.Generator) -> None:
    """Gemma 2 (Gemma Team 2024, section 2): soft_cap * tanh(logits / soft_cap), of scaled scores before the softmax."""
    q, k = rng.normal(size=(2, 4, 6, 3))
    scores = np.einsum("htk,hsk->hts", q, k) / 3**0.5
    capped = np.where(np.tri(6, dtype=bool), 0.7 * np.tanh(scores / 0.7), -np.inf)
    want = np.exp(capped) / np.exp(capped).sum(-1, keepdims=True)
    got = attention_weights(jnp.asarray(q), jnp.asarray(k), causal_mask(6), SOFT_CAP)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-7)


def test_a_changed_attention_is_not_cudnns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "_has_cudnn", lambda: True)
    q = jnp.zeros((1, 2, 16, 8), jnp.bfloat16)
    assert chunked.attention_path(q, q) == "cuDNN"
    for options in ({"rule": DILATED}, {"score": ALIBI}):
        chunked.causal_dot_product_attention(q, q, q, **options)  # cuDNN's would fail here


def test_training_says_which_attention_it_uses() -> None:
    run = RunConfig()
    for options, said in (
        ({"visible": PREFIX}, "chunked over all keys, because ideas.py:prefix lets tokens attend to later ones"),
        ({"visible": DILATED, "score": ALIBI}, "chunked, with ideas.py:dilated and ideas.py:alibi"),
        ({"score": ALIBI, "dropout": 0.1}, "plain, because its weights are dropped"),
        ({"separator": 3}, "chunked, within documents"), ({}, "chunked"),
        ({"score_softcap": 50.0}, "chunked, with a soft cap of 50"),
        ({"sliding_window": 2}, "chunked, within a window of 2"), ({"sliding_window": 2, "layer_pattern": "G"}, "chunked"),
        ({"sliding_window": 2, "layer_pattern": "LG", "separator": 3}, "chunked, within documents, within a window of 2 in 1 of 2 layers"),
    ):  # fmt: skip
        assert describe_attention(run, replace(TINY, **options)) == said
    in_parts = describe_attention(replace(run, parallel=ParallelConfig(context=2)), replace(TINY, separator=3))
    assert in_parts == "chunked over all keys, because positions are in 2 parts, within documents"
