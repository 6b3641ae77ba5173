"""The whole GPT against the reference, and the properties of GPT-2."""

import dataclasses
from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from compilation import compiled_for
from flax import linen as nn
from held import PREFIX, SOFT_CAP
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, GPTConfig, InputError, reference
from jaxllm.attention import MultiHeadAttention
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.report import Report
from jaxllm.fast.init import init_params
from jaxllm.gpt import Block, apply_with_intermediates, count_parameters
from jaxllm.layers import MLP, Linear, Norm
from jaxllm.loss import token_losses

pytestmark = pytest.mark.usefixtures("quick_compilation")
FIELDS = dataclasses.fields(GPTConfig)


@pytest.mark.parametrize(("variant", "dtype"), [
    ("gpt2", "float64"), ("llama", "float64"),
    pytest.param("deep", "float32", marks=pytest.mark.newest),
    *(pytest.param(variant, "float64", marks=pytest.mark.newest) for variant in ("untied", "grouped", "multi-query", "qwen", "qwen 2", "olmo 2", "gemma 3", "neox", "neo", "smollm 3")),
    *(pytest.param(variant, "bfloat16", marks=pytest.mark.newest) for variant in ("gpt2", "llama")),
])  # fmt: skip
def test_model_agrees_with_the_reference(variant: str, dtype: str) -> None:
    """Every intermediate, the gradient there and that of each parameter; bounds: jaxllm.compare.MODEL_TOLERANCES."""
    config = replace(TINY, **VARIANTS[variant])
    params = jax.device_get(random_parameters(GPT(config)))
    with compiled_for(dtype):
        rows, _ = compare_model(config, params, random_tokens(config), random_tokens(config, seed=1), dtype)
    report = Report.of(dtype, rows)
    assert report.passed, report
    assert {"forward", "backward", "gradient"} == {row.stage for row in rows}


@pytest.mark.newest
def test_intermediates_are_those_of_the_reference() -> None:
    """Without jit and without a gradient: the dict that users get."""
    tokens = random_tokens(TINY)
    with jax.enable_x64(True):
        model, params = random_gpt(TINY, "float64")
        logits, seen = apply_with_intermediates(model, params, tokens)
        plain = model.apply({"params": params}, tokens)
        seen, params = jax.device_get((seen, params))
    want_logits, want = reference.gpt.forward_with_intermediates(TINY, params, tokens)
    assert seen.keys() == want.keys()
    np.testing.assert_array_equal(logits, seen["logits"])
    np.testing.assert_array_equal(logits, plain)
    np.testing.assert_array_equal(reference.gpt.forward(TINY, params, tokens), want_logits)
    for name, value in want.items():
        np.testing.assert_allclose(seen[name], value, rtol=0, atol=1e-12 * np.abs(value).max(), err_msg=name)


@pytest.mark.newest
def test_bfloat16_computation_is_near_float32() -> None:
    """Eight bits of mantissa through two blocks: float32 logits within 3 % of the largest."""
    model, params = random_gpt(TINY)
    tokens = random_tokens(TINY)
    exact = model.apply({"params": params}, tokens)
    got = GPT(TINY, dtype="bfloat16").apply({"params": params}, tokens)
    assert got.dtype == jnp.float32
    error = np.abs(got - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.03


def test_gpt2_has_its_published_number_of_parameters() -> None:
    assert count_parameters(GPTConfig()) == 124_439_808
    # nanoGPT's padded vocabulary, and the untied 124M of "Build a Large Language Model" with its 50,257 x 768 head
    assert count_parameters(GPTConfig(vocab_size=50304)) == 124_439_808 + 47 * 768
    assert count_parameters(GPTConfig(tie_embeddings=False)) == 124_439_808 + 50257 * 768 == 163_037_184


@pytest.mark.newest
def test_initialisation_is_gpt2s() -> None:
    config = GPTConfig(vocab_size=500, context_length=64, d_model=128, n_layers=4, n_heads=4)
    params = jax.jit(partial(init_params, GPT(config)))(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    block = params["block_3"]
    narrow = 0.02 / (2 * 4) ** 0.5
    for matrix, std in (
        (params["token_embedding"]["table"], 0.02),
        (params["position_embedding"]["table"], 0.02),
        (block["attention"]["query"]["kernel"], 0.02),
        (block["attention"]["output"]["kernel"], narrow),
        (block["mlp"]["up"]["kernel"], 0.02),
        (block["mlp"]["down"]["kernel"], narrow),
    ):
        assert matrix.std() == pytest.approx(std, rel=0.05)
        assert abs(matrix.mean()) < std / 10
    for vector, value in ((block["norm_1"]["scale"], 1), (block["norm_1"]["bias"], 0), (block["mlp"]["up"]["bias"], 0)):
        np.testing.assert_array_equal(vector, value)


def test_blocks_that_begin_at_zero_change_nothing() -> None:
    """Neither attention nor MLP adds anything, and all logits of an untied head are 0."""
    config, tokens = replace(TINY, zero_init=True, tie_embeddings=False), random_tokens(TINY)
    params = GPT(config).init(jax.random.key(0), tokens)["params"]
    logits, seen = apply_with_intermediates(GPT(config), params, tokens)
    np.testing.assert_array_equal(seen["block_1"], seen["position_embedding"])
    np.testing.assert_array_equal(logits, 0)
    assert all(
        np.any(params["block_0"][part][name]["kernel"]) for part, name in (("attention", "query"), ("mlp", "up"))
    )


@pytest.mark.newest
def test_what_modules_have_by_default() -> None:
    """Each linear map and each norm has a bias, as in GPT-2."""

    def shapes(module: nn.Module) -> Any:
        return jax.tree.map(jnp.shape, module.init(jax.random.key(0), jnp.ones((3, 4)))["params"])

    assert shapes(Norm()) == {"scale": (4,), "bias": (4,)}
    assert shapes(Linear(5)) == {"kernel": (4, 5), "bias": (5,)}
    assert shapes(MLP(8)) == {"up": {"kernel": (4, 8), "bias": (8,)}, "down": {"kernel": (8, 4), "bias": (4,)}}
    square = {"kernel": (4, 4), "bias": (4,)}
    assert shapes(MultiHeadAttention(2)) == dict.fromkeys(("query", "key", "value", "output"), square)


def test_an_untrained_model_knows_nothing() -> None:
    config = replace(TINY, vocab_size=300, d_model=32)
    params = jax.jit(partial(init_params, GPT(config)))(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    tokens = random_tokens(config)
    targets = random_tokens(config, seed=1)
    loss = token_losses(GPT(config).apply({"params": params}, tokens), targets).mean()
    assert loss == pytest.approx(np.log(300), abs=0.05)


@pytest.mark.newest
@pytest.mark.parametrize("variant", ["gpt2", "grouped"])
@pytest.mark.parametrize("t", [0, 3, 7])
def test_causality_by_gradient(variant: str, t: int) -> None:
    """The gradient of the loss at position t is exactly zero for later inputs, and not zero for the others."""
    config = replace(TINY, **VARIANTS[variant])
    model, params = random_gpt(config)
    tokens = random_tokens(config, batch=1)

    def loss_at_t(positions: jax.Array) -> jax.Array:
        # The table of positions is added to the inputs: its row s stands for the input at s.
        params["position_embedding"]["table"] = positions
        return token_losses(model.apply({"params": params}, tokens), tokens)[0, t]

    gradient = np.abs(jax.grad(loss_at_t)(params["position_embedding"]["table"])).sum(-1)
    assert (gradient[t + 1 :] == 0).all()
    assert (gradient[: t + 1] > 0).all()


def test_causality_by_value() -> None:
    model, params = random_gpt(TINY)
    tokens = random_tokens(TINY, batch=1)
    changed = tokens.copy()
    changed[0, 5] = (changed[0, 5] + 1) % TINY.vocab_size
    before, after = (model.apply({"params": params}, t) for t in (tokens, changed))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any(-1).all()


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    model, params = random_gpt(TINY)
    tokens = random_tokens(TINY, batch=3)
    together = model.apply({"params": params}, tokens)
    for row in range(3):
        alone = model.apply({"params": params}, tokens[row : row + 1])
        np.testing.assert_allclose(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@cache
def outcome(config: GPTConfig) -> tuple[object, object, np.ndarray]:
    model, params = random_gpt(config)
    rngs = {"dropout": jax.random.key(1)}
    logits = jax.jit(lambda params: model.apply({"params": params}, random_tokens(TINY), rngs=rngs))(params)
    return jax.tree.structure(params), jax.tree.map(jnp.shape, params), np.asarray(logits)


class Doubled(Block):
    """A block of a user's own."""

    @nn.compact
    def __call__(self, x: jax.Array, documents: jax.Array | None = None) -> jax.Array:
        return 2 * super().__call__(x, documents)


@pytest.mark.newest
@pytest.mark.parametrize("field", [*(f.name for f in FIELDS if f.name != "zero_init"), "position=none"])
def test_every_config_field_does_something(field: str) -> None:
    """Another value gives other parameters or other logits; `zero_init` gives other values to begin with."""
    other = {
        "vocab_size": 18, "context_length": 9, "d_model": 12, "n_layers": 2, "n_heads": 4, "n_kv_heads": 1,
        "d_ff": 5, "mup_base_width": 2, "position": "sinusoidal", "norm": "rms_norm", "activation": "gelu", "dropout": 0.5,
        "tie_embeddings": False, "use_bias": False, "separator": int(random_tokens(TINY)[0, 3]),
        "d_head": 6, "rope_base": 100.0, "rope_factor": 8.0, "rope_low_frequency": 2.0, "rope_high_frequency": 3.0,
        "rope_scaling": "linear", "rope_truncate": False, "rope_attention_factor": 2.0, "rope_original_context": 60, "sliding_window": 2, "norm_epsilon": 0.1, "qk_norm": True,
        "n_experts": 3, "n_experts_per_token": 1, "normalise_experts": False,
        "qkv_bias": False, "rotary_fraction": 0.5, "norm_place": "after", "parallel_residual": True,
        "score_softcap": 0.5, "logits_softcap": 0.5, "attention_scale": 3.0, "layer_pattern": "G",
        "rope_local_base": 20.0, "rotary_pattern": "N",
        "scale_embeddings": True, "visible": PREFIX, "score": SOFT_CAP, "block": Doubled, "logits": jnp.tanh,
            "ngrams": 2, "ngram_rows": 9, "n_classes": 3,
        "position=none": "none",
    }[field]  # fmt: skip
    base = replace(TINY, n_layers=1, ngrams=2 if field == "ngram_rows" else 1)
    if "rope" in field or "rotary" in field:
        base = replace(base, position="rotary", rope_factor=4.0, rope_original_context=10)
    if field in ("rope_truncate", "rope_attention_factor"):
        base = replace(base, rope_scaling="yarn", rope_base=100.0, rope_low_frequency=0.05, rope_high_frequency=1.0)
    if "experts" in field:
        base = replace(base, activation="swiglu", use_bias=False, n_experts=4)
    if field in ("layer_pattern", "rope_local_base"):
        base = replace(base, sliding_window=2, layer_pattern="L")
    before, after = outcome(base), outcome(replace(base, **{field.partition("=")[0]: other}))
    same_params = before[:2] == after[:2]
    assert not (same_params and np.array_equal(before[2], after[2]))


def test_tokens_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the signature would refuse some first
    model, params = random_gpt(TINY)
    with pytest.raises(InputError, match="9 tokens are more than the model's context_length = 8"):
        model.apply({"params": params}, np.zeros((1, 9), np.int32))
    with pytest.raises(InputError, match="integers of shape"):
        model.apply({"params": params}, np.zeros((1, 4), np.float32))
    with pytest.raises(InputError, match="integers of shape"):
        model.apply({"params": params}, np.zeros(4, np.int32))


@pytest.mark.newest
def test_a_token_outside_the_vocabulary_is_noticed() -> None:
    model, params = random_gpt(TINY)
    logits = model.apply({"params": params}, np.array([[1, 17, 2], [1, 16, 2]]))
    assert np.isnan(logits[0]).all() and np.isfinite(logits[1]).all()
