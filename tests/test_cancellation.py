"""Gradients of queries and keys on the scale of their terms: no alarm where these cancel, nothing hidden where not."""

from dataclasses import replace
from typing import Any

import jax
import pytest
from models import TINY, VARIANTS, random_tokens

from jaxllm import GPT, InputError, reference
from jaxllm.cancellation import query_key_scales
from jaxllm.compare import compare_model, random_parameters
from jaxllm.deviation import Report, largest


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_keys_all_alike_are_no_alarm(dtype: str) -> None:
    """Then what the softmax passes back cancels: an error of one rounding is large beside what remains."""
    params = random_parameters(GPT(TINY))
    for i in range(TINY.n_layers):
        key = params[f"block_{i}"]["attention"]["key"]
        key["kernel"] = 1e-6 * key["kernel"]
    rows, _ = compare_model(TINY, params, random_tokens(TINY), random_tokens(TINY, seed=1), dtype)
    report = Report.of(dtype, rows)
    assert report.passed and not any(row.jump for row in report.rows), str(report)


@pytest.mark.parametrize("change", VARIANTS.values(), ids=VARIANTS.keys())
def test_where_nothing_cancels_the_scale_is_that_of_the_sum(change: dict[str, Any]) -> None:
    config = replace(TINY, **change)
    params, tokens = jax.device_get(random_parameters(GPT(config))), random_tokens(config)
    _, seen = reference.gpt.forward_with_intermediates(config, params, tokens)
    felt: dict[str, Any] = {}
    _, gradients = reference.step.accumulate(config, params, tokens, random_tokens(config, seed=1), felt=felt)
    sums = {name: largest(value / tokens.size) for name, value in felt.items()}
    for i in range(config.n_layers):
        for name in ("query", "key"):
            sums[f"block_{i}/attention/{name}/kernel"] = largest(gradients[f"block_{i}"]["attention"][name]["kernel"])
    scales = query_key_scales(config, params, seen, {name: value / tokens.size for name, value in felt.items()})
    compared = {name: scale / sums[name] for name, scale in scales.items() if name in sums}
    assert len(compared) == 4 * config.n_layers
    assert all(0.3 < ratio < 20 for ratio in compared.values()), compared


def test_a_layer_norm_of_two_features_is_refused() -> None:
    with pytest.raises(InputError, match="d_model is 2, but the layer norm of two features"):
        compare_model(replace(TINY, d_model=2, n_heads=1), {}, [], [])
