"""The attention ladder: each rung reduces to the one below, and the book's five modules agree to six digits."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from models import random_like

from jaxllm.attention import (
    CausalAttention,
    MultiHeadAttention,
    SelfAttention,
    attention_weights,
    causal_mask,
    repeat_heads,
    scaled_dot_product_attention,
    simple_attention,
    simple_attention_weights,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "attention_golden.json").read_text())
INPUTS = jnp.asarray(GOLDEN["inputs"])  # "Your journey starts with one step"


def kernels(golden: dict[str, Any]) -> dict[str, Any]:
    """Our parameters from the book's names."""
    names = {"query": "wq", "key": "wk", "value": "wv", "output": "wo"}
    params = {ours: {"kernel": jnp.asarray(golden[theirs])} for ours, theirs in names.items() if theirs in golden}
    if "bo" in golden:
        params["output"]["bias"] = jnp.asarray(golden["bo"])
    return params


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("self_attn_v1_seed123", SelfAttention(2)),
        ("self_attn_v2_seed789", SelfAttention(2)),
        ("causal_seed123", CausalAttention(2)),
    ],
)
def test_the_books_single_head_modules(name: str, module: SelfAttention) -> None:
    got = module.apply({"params": kernels(GOLDEN[name])}, INPUTS)
    np.testing.assert_allclose(got, GOLDEN[name]["out"], rtol=0, atol=1e-6)


def test_the_books_wrapper_of_heads() -> None:
    golden = GOLDEN["mha_wrapper_seed123_2heads"]
    heads = [CausalAttention(2).apply({"params": kernels(head)}, INPUTS) for head in golden["heads"]]
    np.testing.assert_allclose(jnp.concatenate(heads, -1), golden["out"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_books_multi_head_attention(batch: int) -> None:
    golden = GOLDEN["mha_seed123_2heads"]
    params = kernels(golden)
    for name in ("query", "key", "value"):
        params[name]["bias"] = jnp.zeros(2)  # the book has a bias in the output map only
    x = jnp.broadcast_to(INPUTS, (batch, *INPUTS.shape))
    got = MultiHeadAttention(2, features=2).apply({"params": params}, x)
    for row in got:
        np.testing.assert_allclose(row, golden["out"], rtol=0, atol=1e-6)


def test_the_books_simple_attention() -> None:
    """Weights and result of the second token, as printed in chapter 3."""
    for weights in (simple_attention_weights(INPUTS), attention_weights(INPUTS * 3**0.5, INPUTS)):
        np.testing.assert_allclose(weights[1], [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581], atol=5e-5)
    np.testing.assert_allclose(simple_attention(INPUTS)[1], [0.4419, 0.6515, 0.5683], atol=5e-5)


def test_causal_mask_by_eye() -> None:
    np.testing.assert_array_equal(causal_mask(4), [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


def test_scaled_attention_of_x_with_itself_is_simple_attention(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    scaled = scaled_dot_product_attention(x * 4**0.5, x, x)
    np.testing.assert_allclose(scaled, simple_attention(x), rtol=1e-6, atol=1e-6)


def test_self_attention_with_identity_maps_is_scaled_attention(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    params = {name: {"kernel": jnp.eye(4)} for name in ("query", "key", "value")}
    got = SelfAttention(4).apply({"params": params}, x)
    np.testing.assert_allclose(got, scaled_dot_product_attention(x, x, x), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(SelfAttention(4).apply({"params": params}, x, x), got)  # context = x


def test_causal_attention_is_self_attention_over_the_past(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    params = random_like(SelfAttention(4).init(jax.random.key(0), x)["params"])
    causal = CausalAttention(4).apply({"params": params}, x)
    for t in range(5):
        past = SelfAttention(4).apply({"params": params}, x[:, : t + 1])
        np.testing.assert_allclose(causal[:, t], past[:, t], rtol=1e-5, atol=1e-6)


def test_one_head_with_an_identity_output_is_causal_attention(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(3, 5, 4)), jnp.float32)
    params = random_like(CausalAttention(4).init(jax.random.key(0), x)["params"])
    one_head = MultiHeadAttention(1, use_bias=False).apply({"params": params | {"output": {"kernel": jnp.eye(4)}}}, x)
    np.testing.assert_allclose(one_head, CausalAttention(4).apply({"params": params}, x), rtol=1e-6, atol=1e-6)


def test_grouped_heads_with_equal_keys_are_plain_heads(rng: np.random.Generator) -> None:
    x = jnp.asarray(rng.normal(size=(2, 5, 8)), jnp.float32)
    grouped = MultiHeadAttention(4, n_kv_heads=2, use_bias=False)
    params = random_like(grouped.init(jax.random.key(0), x)["params"])

    def widen(kernel: jax.Array) -> jax.Array:  # [D, G K] -> [D, H K], each group's map once for each of its heads
        return repeat_heads(kernel.reshape(8, 2, 2).swapaxes(0, 1)[:, :, :], 4).swapaxes(-3, -2).reshape(8, 8)

    plain = params | {name: {"kernel": widen(params[name]["kernel"])} for name in ("key", "value")}
    got = MultiHeadAttention(4, use_bias=False).apply({"params": plain}, x)
    np.testing.assert_allclose(grouped.apply({"params": params}, x), got, rtol=1e-5, atol=1e-6)


def test_a_fully_masked_row_is_the_mean(rng: np.random.Generator) -> None:
    q, k, v = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(3))
    out = scaled_dot_product_attention(q, k, v, jnp.zeros((4, 4), bool))
    np.testing.assert_allclose(out, jnp.broadcast_to(v.mean(0), (4, 3)), rtol=1e-6, atol=1e-6)


def test_wrong_shapes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the signature would refuse them first
    x = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match="last axis"):
        scaled_dot_product_attention(x, jnp.zeros((4, 2)), x)
    with pytest.raises(ValueError, match="same number of positions"):
        scaled_dot_product_attention(x, x, jnp.zeros((5, 3)))
    with pytest.raises(ValueError, match="must be bool"):
        scaled_dot_product_attention(x, x, x, jnp.zeros((4, 4)))
    with pytest.raises(ValueError, match="3 features, 2 heads and 2 key heads do not divide"):
        MultiHeadAttention(2).init(jax.random.key(0), x)
