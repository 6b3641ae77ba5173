"""The fast forms of attention and loss: every way of cutting into chunks, the growth of memory, and the path taken."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from held import PLACED, PREFIX

from jaxllm import GPT, GPTConfig, fast, loss, reference
from jaxllm.attention import (
    MultiHeadAttention,
    causal_dot_product_attention,
    causal_mask,
    scaled_dot_product_attention,
)
from jaxllm.fast import attention as chunked
from jaxllm.fast import loss as fast_loss
from jaxllm.fast.platform import compiling_for
from jaxllm.fast.splash import splash_attention
from jaxllm.gpt import summed_loss
from jaxllm.loss import cross_entropy
from jaxllm.parallel import CONTEXT
from jaxllm.softcap import SoftCap


def qkv(length: int, *lead: int, width: int = 4, dtype: str = "float64") -> list[Any]:
    return [np.random.default_rng(i).normal(size=(*lead, length, width)).astype(dtype) for i in range(4)]


def value_and_pullback(function: Any, q: Any, k: Any, v: Any, dout: Any) -> Any:
    out, pullback = jax.vjp(function, q, k, v)
    return out, pullback(dout)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("kept", [0, pytest.param(64, marks=pytest.mark.newest)])
@pytest.mark.parametrize("length", [1, 2, 3, 7, 24, 25, 29])
def test_every_plan_gives_the_same_numbers(length: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of at most three rows: one or several groups, one or several chunks in each, full or padded; with and
    without the exponentials kept for the backward."""
    monkeypatch.setattr(chunked, "KEPT", kept)
    monkeypatch.setattr(chunked, "SHORTEST", 2)
    monkeypatch.setattr(chunked, "LONGEST", 3)
    q, k, v, dout = qkv(length, 2)
    documents = np.arange(2 * length).reshape(2, length) // 5  # the second row's begin elsewhere
    for within in ([], [documents]) if length in (7, 25) else ([],):
        attend = (
            partial(chunked.causal_dot_product_attention, documents=jnp.asarray(within[0]))
            if within
            else chunked.causal_dot_product_attention
        )
        with jax.enable_x64(True):
            out, gradients = jax.jit(partial(value_and_pullback, attend))(q, k, v, dout)
        want, want_back = reference.attention.causal_dot_product_attention_vjp(q, k, v, *within)
        np.testing.assert_allclose(out, want, rtol=0, atol=1e-13)
        for got, wanted in zip(gradients, want_back(dout)[:3], strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    ("options", "kept"), [((9, None, None), 0), ((None, PREFIX, PLACED), 64)], ids=["a window", "ideas"]
)
def test_positions_in_parts_give_the_same_numbers(options: Any, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part has its own queries, padded to full chunks, and reads the keys of all; `vmap` is the devices here."""
    monkeypatch.setattr(chunked, "KEPT", kept)
    monkeypatch.setattr(chunked, "SHORTEST", 2)
    monkeypatch.setattr(chunked, "LONGEST", 9)
    parts, length = 3, 21
    q, k, v, dout = qkv(length, 2)
    documents = np.arange(2 * length).reshape(2, length) // 8

    def of_part(documents: Any, *arrays: Any) -> Any:
        return value_and_pullback(lambda *qkv: chunked._on_one_device(*qkv, documents, *options, parts), *arrays)

    with jax.enable_x64(True):
        own = [jnp.stack(jnp.split(x, parts, axis=1)) for x in (documents, q, k, v, dout)]
        out, gradients = jax.tree.map(np.hstack, jax.jit(jax.vmap(of_part, axis_name=CONTEXT))(*own))
    want, want_back = reference.attention.causal_dot_product_attention_vjp(q, k, v, documents, *options)
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-13)
    for got, wanted in zip(gradients, want_back(dout)[:3], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_the_plan_wastes_little() -> None:
    """Equal chunks of at most 256 rows, and fewer rows of padding than chunks."""
    for length in (*range(1, 300), 1000, 1024, 1025, 5000, 8192):
        groups, chunks, size = plan = chunked.chunking(length)
        assert size <= 256 and groups <= 4
        assert 0 <= groups * plan.rows - length < groups * chunks
    assert chunked.chunking(256) == (4, 1, 64)
    assert chunked.chunking(8192) == (4, 8, 256)
    assert chunked.chunking(8192, parts=2) == (1, 64, 128) and chunked.chunking(8192, parts=8) == (1, 128, 64)


def temporary_bytes(function: Any, *shapes: tuple[int, ...]) -> int:
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.newest
def test_memory_grows_with_the_length_not_its_square() -> None:
    """From 1024 to 4096 positions memory grows fourfold; with the weights kept it grows sixteenfold."""

    def growth(attention: Any) -> float:
        def total(q: Any, k: Any, v: Any) -> Any:
            return attention(q, k, v).sum()

        short, long = (temporary_bytes(jax.grad(total, (0, 1, 2)), *[(2, t, 16)] * 3) for t in (1024, 4096))
        return long / short

    plain = growth(lambda q, k, v: scaled_dot_product_attention(q, k, v, causal_mask(q.shape[-2])))
    assert growth(chunked.causal_dot_product_attention) < 5 < 12 < plain


@pytest.mark.newest
@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="XLA of JAX 0.10 keeps more than it needs")
def test_the_backward_does_not_keep_the_forwards_scores() -> None:
    """Eight attentions in a row hold a few times the scores of one in memory, not the scores of all."""

    def chain(q: Any, k: Any, v: Any) -> Any:
        for _ in range(8):
            q = chunked.causal_dot_product_attention(q, k, v)
        return q.sum()

    one = 1024 * 1024 * 5 // 8 * 4  # bytes of the scores of one
    arrays = 8 * 2 * 1024 * 16 * 4  # queries and results of all
    assert temporary_bytes(jax.grad(chain), *[(1, 1024, 16)] * 3) < arrays + 4 * one


@pytest.mark.newest
def test_attention_says_which_path_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN on a GPU that has it, for the shapes that it supports; its operands are [B, T, H, K]."""

    def path(shape: tuple[int, ...], dtype: str = "bfloat16", width: int | None = None) -> str:
        x = jax.ShapeDtypeStruct(shape, dtype)
        return chunked.attention_path(x, jax.ShapeDtypeStruct((*shape[:-1], width or shape[-1]), dtype))

    fits = (2, 3, 16, 8)
    assert path(fits) == "chunked"
    monkeypatch.setattr(chunked, "_has_cudnn", lambda: True)
    assert path(fits) == "cuDNN"
    others = [path(fits, "float32"), path((2, 3, 16, 136)), path((2, 3, 16, 12)), path((2, 3, 15, 8)), path((3, 16, 8))]
    assert others + [path(fits, width=16)] == ["chunked"] * 6
    half = jax.ShapeDtypeStruct(fits, "bfloat16")
    assert chunked.attention_path(half, half, parts=2) == "chunked"

    def as_cudnn(q: Any, k: Any, v: Any, is_causal: bool, implementation: str) -> Any:
        assert (q.shape, is_causal, implementation) == ((2, 16, 3, 8), True, "cudnn")
        return jax_attention(q, k, v, is_causal=True)

    jax_attention = jax.nn.dot_product_attention
    monkeypatch.setattr(jax.nn, "dot_product_attention", as_cudnn)
    q, k, v, _ = (jnp.asarray(x, jnp.bfloat16) for x in qkv(16, 2, 3, width=8))
    for within in ([], [jnp.arange(16) // 5]):  # documents, which cuDNN does not support, take the other path
        want = reference.attention.causal_dot_product_attention(
            *(np.asarray(x, np.float64) for x in (q, k, v)), *within
        )
        got = chunked.causal_dot_product_attention(q, k, v, *within)
        np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.03)


@pytest.mark.parametrize(
    ("backend", "capability", "has"),
    [
        ("gpu", "9.0", True), ("gpu", "8.0", True), ("gpu", "12.0", True), ("gpu", "7.5", False),
        ("gpu", "gfx90a", False), ("gpu", None, False), ("tpu", "9.0", False), ("cpu", None, False),
    ],
)  # fmt: skip
def test_which_devices_have_cudnn(
    backend: str, capability: str | None, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(**named)])
    assert chunked._has_cudnn() == has


def test_shapes_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # the signature would refuse them first
    q, k, v, _ = qkv(5)
    with pytest.raises(ValueError, match=r"q \(5, 4\), k \(4, 4\) and v \(5, 4\) must agree"):
        chunked.causal_dot_product_attention(q, k[1:], v)


def test_attention_with_dropout_is_the_plain_one() -> None:
    """With every weight kept (a rate near 0) it equals the fast path."""
    x = jnp.asarray(qkv(9, 2, width=8, dtype="float32")[0])
    module = MultiHeadAttention(2, dropout=1e-9)
    params = module.init(jax.random.key(0), x)
    np.testing.assert_allclose(
        module.apply(params, x, rngs={"dropout": jax.random.key(1)}), module.apply(params, x), atol=1e-6
    )


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("most", [1, 21, 50, 1000])
@pytest.mark.parametrize("ids", [3, 7])
def test_a_loss_in_chunks_is_the_loss(most: int, ids: int, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tokens, seven logits each: chunks of one, three (the last is padded), seven and all; ids in parts.

    For a TPU chunks are of four or eight tokens, and ids are whole.
    """
    monkeypatch.setattr(fast_loss, "ALIGNED", 4)
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", most)
    monkeypatch.setattr(fast_loss, "MOST_IDS", ids)
    rng = np.random.default_rng(0)
    table, x, weights = rng.normal(size=(7, 4)), rng.normal(size=(2, 5, 4)), rng.random((2, 5))
    targets = rng.integers(7, size=(2, 5))
    with jax.enable_x64(True), compiling_for(platform):
        value, pullback = jax.vjp(lambda t, x, w: loss.head_loss(t, x, targets, w), table, x, weights)
        gradients = pullback(jnp.asarray(1.7))
        assert loss.head_loss(table, x, targets, weights) == pytest.approx(float(value), rel=1e-14)
    want, want_back = reference.loss.head_loss_vjp(table, x, targets, weights)
    assert float(value) == pytest.approx(float(want), rel=1e-13)
    dtable, dx, _, dweights = want_back(np.asarray(1.7))
    for got, wanted in zip(gradients, (dtable, dx, dweights), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


def test_chunks_are_aligned_off_the_cpu() -> None:
    """GPT-2's vocabulary and 16 x 1,024 tokens."""
    table, x = jax.ShapeDtypeStruct((50304, 768), "float32"), jax.ShapeDtypeStruct((16384, 768), "bfloat16")
    for platform, shape in (("cpu", (13, 1261, 768)), ("tpu", (13, 1280, 768))):
        with compiling_for(platform):
            (cut,) = jax.eval_shape(fast_loss._chunks, table, x)
        assert cut.shape == shape


def test_logits_are_changed_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, as in the formula: chunks of three tokens, ids in parts of three."""
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", 21)
    monkeypatch.setattr(fast_loss, "MOST_IDS", 3)
    rng = np.random.default_rng(0)
    table, x, targets, weights = (
        rng.normal(size=(7, 4)),
        rng.normal(size=(10, 4)),
        rng.integers(7, size=10),
        rng.random(10),
    )

    def summed(table: Any, x: Any) -> Any:
        return loss.head_loss(table, x, targets, weights, lambda z: jnp.tanh(z) * 2)

    with jax.enable_x64(True):
        got = jax.value_and_grad(summed, (0, 1))(table, x)
        with fast.off():
            want = jax.value_and_grad(summed, (0, 1))(table, x)
    for ours, formula in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, formula, rtol=0, atol=1e-12)


def test_the_loss_never_holds_all_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_loss, "MOST_LOGITS", 2**16)
    targets = jnp.zeros(1024, jnp.int32)
    bytes_of_all = 1024 * 1024 * 4
    assert (
        temporary_bytes(jax.grad(lambda t, x: loss.head_loss(t, x, targets)), (1024, 8), (1024, 8)) < bytes_of_all / 3
    )
    assert temporary_bytes(lambda t, x: loss.head_loss(t, x, targets), (1024, 8), (1024, 8)) < bytes_of_all / 3


@pytest.mark.parametrize("tied", [True, False])
def test_the_summed_loss_of_a_model_is_that_of_its_logits(tied: bool) -> None:
    config = GPTConfig(vocab_size=11, context_length=6, d_model=8, n_layers=1, n_heads=2, tie_embeddings=tied)
    tokens = jnp.asarray(np.random.default_rng(0).integers(11, size=(2, 7)))
    inputs, targets, model = tokens[:, :-1], tokens[:, 1:], GPT(config)
    params = model.init(jax.random.key(0), inputs)["params"]
    logits = model.apply({"params": params}, inputs)
    got = summed_loss(model, params, inputs, targets) / 12
    assert got == pytest.approx(float(cross_entropy(logits, targets)), rel=1e-6)
    weights = jnp.asarray(np.random.default_rng(1).random((2, 6)), jnp.float32)
    weighted = summed_loss(model, params, inputs, targets, weights) / weights.sum()
    assert weighted == pytest.approx(float(cross_entropy(logits, targets, weights)), rel=1e-6)


@pytest.mark.parametrize(
    ("within", "window", "cap"), [(False, None, None), (False, 100, None), (True, None, None), (False, 100, 0.7)]
)
def test_the_kernel_of_a_tpu_agrees_with_the_formula(within: bool, window: int | None, cap: float | None) -> None:
    """Forward and backward, two blocks each way, with the kernel interpreted."""
    q, k, v, dout = (jnp.asarray(x, jnp.float32) for x in qkv(256, 2, 1, width=8))
    documents = jnp.asarray(np.arange(256) // 90 + np.zeros((2, 1, 1), int), jnp.int32) if within else None
    got, back = jax.vjp(lambda *x: splash_attention(*x, documents, window, cap), q, k, v)
    with fast.off():
        rest = (documents, window, None, None if cap is None else SoftCap(cap))
        want, formula_back = jax.vjp(lambda *x: causal_dot_product_attention(*x, *rest), q, k, v)
    for ours, formula in zip((got, *back(dout)), (want, *formula_back(dout)), strict=True):
        np.testing.assert_allclose(ours, formula, atol=2e-5)


def test_a_tpu_calls_its_kernel_where_it_can() -> None:
    x = jax.ShapeDtypeStruct((2, 3, 256, 8), "bfloat16")
    odd, single = jax.ShapeDtypeStruct((2, 3, 200, 8), "bfloat16"), jax.ShapeDtypeStruct(x.shape, "float32")
    with compiling_for("tpu"):
        assert [chunked.attention_path(y, y, cut=True) for y in (x, odd, single)] == ["splash", "chunked", "chunked"]
        lowered = jax.jit(chunked.causal_dot_product_attention).trace(x, x, x).lower(lowering_platforms=("tpu",))
        capped = jax.jit(partial(chunked.causal_dot_product_attention, score=SoftCap(50.0)))
        lowered_capped = capped.trace(x, x, x).lower(lowering_platforms=("tpu",))
    assert "tpu_custom_call" in lowered.as_text() and "tpu_custom_call" in lowered_capped.as_text()
