"""Gradients whose terms cancel are measured on the scale of the terms, and all others on their own."""

from dataclasses import replace
from typing import Any

import jax
import pytest
from models import TINY, VARIANTS, random_tokens

from jaxllm import GPT, InputError, reference
from jaxllm.compare import compare_model, random_parameters
from jaxllm.compare.measure import largest
from jaxllm.compare.report import Report
from jaxllm.compare.scales import gradient_scales, loss_scale
from jaxllm.compare.trees import named_leaves

pytestmark = pytest.mark.newest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_with_equal_keys_is_within_tolerance(dtype: str) -> None:
    """The gradient behind the softmax cancels there, so an error of one rounding is large beside it."""
    params = random_parameters(GPT(TINY))
    for i in range(TINY.n_layers):
        key = params[f"block_{i}"]["attention"]["key"]
        key["kernel"] = 1e-6 * key["kernel"]
    rows, _ = compare_model(TINY, params, random_tokens(TINY), random_tokens(TINY, seed=1), dtype)
    report = Report.of(dtype, rows)
    assert report.passed and not any(row.jump for row in report.rows), str(report)


def test_a_confident_model_is_within_tolerance() -> None:
    """Its loss log sum exp(logits) - logit and its gradient P - 1 at the logits are nothing but rounding."""
    config = replace(TINY, tie_embeddings=False)
    params, tokens = random_parameters(GPT(config)), random_tokens(config, batch=1, length=1)
    params["head"]["kernel"] = 30 * params["head"]["kernel"]
    logits = reference.gpt.forward(config, params, tokens)
    rows, _ = compare_model(config, params, tokens, logits.argmax(-1))
    report = Report.of("float32", rows)
    loss = next(row for row in rows if row.name == "loss")
    assert "its terms cancel" in loss.note and "its terms cancel" in next(r.note for r in rows if r.stage == "backward")
    assert report.passed and not any(row.jump for row in report.rows), str(report)


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS.keys())
def test_where_nothing_cancels_the_scale_is_that_of_the_sum(change: dict[str, Any]) -> None:
    config = replace(TINY, **change)
    params, tokens = jax.device_get(random_parameters(GPT(config))), random_tokens(config)
    _, intermediates = reference.gpt.forward_with_intermediates(config, params, tokens)
    targets, cotangents = random_tokens(config, seed=1), {}
    loss, gradients = reference.step.accumulate(config, params, tokens, targets, cotangents=cotangents)
    cotangents = {name: value / tokens.size for name, value in cotangents.items()}
    own = {name: largest(x) for name, x in (cotangents | named_leaves(gradients)).items()}
    scales = gradient_scales(config, params, intermediates, cotangents, gradients)
    assert scales.keys() == own.keys()
    for name, scale in scales.items():
        most = 20 if "/query" in name or "/key" in name else 1.5
        assert 1 <= scale / own[name] < most or name.endswith("key/bias"), name
    assert loss_scale(intermediates["logits"], targets) < 2 * loss


def test_a_layer_norm_of_two_features_is_refused() -> None:
    with pytest.raises(InputError, match="d_model is 2, but the layer norm of two features"):
        compare_model(replace(TINY, d_model=2, n_heads=1), {}, [], [])
