"""A model of classes: a linear map with a bias in place of the head, and what needs a head refuses it."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from models import TINY, VARIANTS, random_gpt, random_tokens

from jaxllm import GPT, InputError, reference
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.report import Report
from jaxllm.fast.generate import start_generation
from jaxllm.flops import flops_per_token
from jaxllm.generate import PLAIN, generate
from jaxllm.gpt import count_parameters, head_table, parameter_shapes, summed_loss
from jaxllm.logit_lens import logit_lens
from jaxllm.parallel import parameter_specs
from jaxllm.pretrained.save import save_pretrained
from train.nonfinite import parts_backward
from train.state import init_state

QUICKLY = pytest.mark.usefixtures("quick_compilation")
CONFIG = replace(TINY, n_classes=3)


@QUICKLY
@pytest.mark.parametrize("variant", ["gpt2", *(pytest.param(v, marks=pytest.mark.newest) for v in ("untied", "llama"))])
def test_agrees_with_the_reference(variant: str) -> None:
    """Every intermediate, the gradient there and that of each parameter, float64."""
    config = replace(CONFIG, **VARIANTS[variant])
    classes = np.random.default_rng(1).integers(3, size=(3, config.context_length))
    params = jax.device_get(random_parameters(GPT(config)))
    rows, gradients = compare_model(config, params, random_tokens(config), classes, "float64")
    assert Report.of("float64", rows).passed, Report.of("float64", rows)
    assert np.any(gradients["classifier"]["bias"]) and "head" not in gradients
    assert {row.name for row in rows} >= {"classifier/kernel", "classifier/bias"}


def test_its_parameters() -> None:
    """Those of the model without a head, and the map; a tied table is no head then."""
    for config in (CONFIG, replace(CONFIG, tie_embeddings=False)):
        shapes = parameter_shapes(config)
        assert shapes["classifier/kernel"] == (8, 3) and shapes["classifier/bias"] == (3,)
        assert not [path for path in shapes if path.startswith("head")]
        assert count_parameters(config) == count_parameters(TINY) + 8 * 3 + 3
    assert flops_per_token(TINY) - flops_per_token(CONFIG) == 6 * 8 * (17 - 3)
    sizes = {"data": 1, "fsdp": 2, "context": 1, "tensor": 1}
    specs = parameter_specs(parameter_shapes(CONFIG), sizes)
    assert tuple(specs["classifier/kernel"]) == ("fsdp", None) and tuple(specs["classifier/bias"]) == (None,)
    _, params = random_gpt(CONFIG)
    assert parts_backward(params)[0] == reference.step.parts_backward(params)[0] == "classifier"


@pytest.mark.newest
@pytest.mark.parametrize("zero_init", [False, True])
def test_its_first_parameters(zero_init: bool) -> None:
    """Those of flax: the kernel as a head's, zero with `zero_init`, and no bias."""
    model = GPT(replace(CONFIG, zero_init=zero_init))
    want = jax.jit(model.init)(jax.random.key(3), np.zeros((1, 1), np.int32))["params"]
    got = init_state(model, optax.sgd(0.0), 3).params
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6, atol=0, strict=True), got, want)
    kernel = np.asarray(got["classifier"]["kernel"])
    assert np.any(kernel) != zero_init and not np.any(got["classifier"]["bias"])
    assert zero_init or 0.01 < kernel.std() < 0.03


@QUICKLY
def test_logits_are_float32_in_half_precision() -> None:
    _, params = random_gpt(CONFIG)
    logits = GPT(CONFIG, "bfloat16").apply({"params": params}, random_tokens(CONFIG))
    assert logits.shape == (3, 8, 3) and logits.dtype == "float32"


@QUICKLY
@pytest.mark.newest
def test_the_summed_loss_is_of_its_logits() -> None:
    model, params = random_gpt(CONFIG)
    tokens, classes = random_tokens(CONFIG), np.random.default_rng(1).integers(3, size=(3, 8))
    weights = np.random.default_rng(2).random((3, 8))
    want = reference.loss.token_losses(reference.gpt.forward(CONFIG, params, tokens), classes) * weights
    np.testing.assert_allclose(summed_loss(model, params, tokens, classes, weights), want.sum(), rtol=1e-5)


@QUICKLY
def test_what_needs_a_head_refuses_it(tmp_path: Any) -> None:
    """Tokens drawn from classes would be nonsense, and so would a tied table read as the head."""
    model, params = random_gpt(CONFIG)
    key = jax.random.key(0)
    for use in (
        lambda: generate(model, params, [[1, 2]], key, 1),
        lambda: generate.__wrapped__(model, params, [[1, 2]], key, 1),  # type: ignore[attr-defined]
        lambda: start_generation(model, params, [[1, 2]], key, 1, PLAIN),
        lambda: logit_lens(CONFIG, params, np.zeros((1, 8), np.float32)),
        lambda: head_table(CONFIG, params),
        lambda: summed_loss(model, params, np.zeros((1, 8), int), np.zeros((1, 8), int), loss=lambda x, table, y: x),
    ):
        with pytest.raises(InputError, match="a classifier of 3 classes"):
            use()
    with pytest.raises(InputError, match=r"model.n_classes = 3"):
        save_pretrained(tmp_path / "folder", CONFIG, params)
    assert not (tmp_path / "folder").exists()
