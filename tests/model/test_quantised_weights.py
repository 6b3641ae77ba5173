"""Packed maps against their twins, and packed models against unpacked ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import InputError, reference
from jaxllm.compare import arithmetic
from jaxllm.fast.quantised_weights import PackedKernel, pack, quantise_rows, quantised_product


@pytest.mark.parametrize("shape", [(5,), (1, 7), (3, 4, 6)])
def test_quantised_functions_agree_with_their_twins(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    with arithmetic("float64"):
        x = rng.normal(size=shape)
        x[..., 0] = 0.5 / 127 * np.abs(x).max(-1)  # a half, up to rounding
        weights, scale = quantise_rows(jnp.asarray(rng.normal(size=(9, shape[-1]))))
        want_rows, want_scale = reference.fast.quantised_weights.quantise_rows(x)
        rows, row_scale = quantise_rows(jnp.asarray(x))
        assert rows.dtype == jnp.int8
        np.testing.assert_array_equal(rows, want_rows)
        np.testing.assert_allclose(row_scale, want_scale, rtol=1e-15)
        want = reference.fast.quantised_weights.quantised_product(x, weights, scale[:, 0])
        np.testing.assert_allclose(quantised_product(jnp.asarray(x), weights, scale[:, 0]), want, rtol=1e-13)
        for packed in ((weights, scale[:, 0]), (weights.astype(float), None)):
            want = reference.fast.quantised_weights.packed_product(x, *packed)
            for rows in (None, (2, 5)):
                got = jnp.asarray(x) @ PackedKernel(*packed, rows)
                np.testing.assert_allclose(got, want if rows is None else want[..., 2:5], rtol=1e-12, atol=1e-14)


def test_a_row_of_zeros_stays_zero() -> None:
    rows, scale = quantise_rows(jnp.zeros((2, 3)))
    assert not rows.any() and not scale.any()


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize("variant", ["gpt2", pytest.param("llama", marks=pytest.mark.newest)])
def test_a_packed_model_is_the_same_model(variant: str) -> None:
    """Up to rounding with float32, and within the steps of 8 bits with bfloat16 and int8."""
    config = replace(TINY, **VARIANTS[variant], n_layers=1, tie_embeddings=variant == "gpt2")
    model, params = random_gpt(config)
    tokens = random_tokens(config)
    exact = model.apply({"params": params}, tokens)

    def error(weights: str) -> float:
        packed = pack(params, weights)
        logits = jax.jit(model.apply)({"params": packed}, tokens)
        assert logits.dtype == jnp.float32
        return float(jnp.abs(logits - exact).max() / jnp.abs(exact).max())

    assert error("float32") < 1e-5
    assert 1e-4 < error("bfloat16") < 0.05
    assert 1e-4 < error("int8") < 0.15


def test_int8_is_a_quarter_of_the_bytes() -> None:
    """The bytes read for each token; of the table only the packed kernel is read."""
    config = replace(TINY, d_model=64, d_ff=256)
    params = random_gpt(config)[1]
    packed = pack(params, "int8")
    read = [packed["block_0"], packed["block_1"], packed["token_embedding"]["table"].T]
    maps = [leaf for leaf in jax.tree.leaves(read) if leaf.ndim == 2]
    assert sum(leaf.nbytes for leaf in maps) == 2 * 12 * 64**2 + TINY.vocab_size * 64
    assert all(leaf.dtype == jnp.int8 for leaf in maps)


def test_other_weights_are_refused() -> None:
    with pytest.raises(InputError, match="weights is 'int4'; choose one of float32, bfloat16, int8"):
        pack({}, "int4")
