"""The count of operations, against the products that the NumPy reference computes."""

import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxllm import GPT, GPTConfig, reference
from jaxllm.compare import random_parameters
from jaxllm.flops import flops_per_token


class Counted(np.ndarray):
    """An array that adds up the operations of its matrix products, also of arrays computed from it."""

    operations = 0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, Counted) else x for x in inputs]
        if out is not None:
            options["out"] = tuple(np.asarray(x) if isinstance(x, Counted) else x for x in out)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counted.operations += 2 * result.size * plain[0].shape[-1]
        return result.view(Counted) if isinstance(result, np.ndarray) else result


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every array of the reference is counted."""
    for name, module in [*sys.modules.items()]:
        if name.startswith("jaxllm.reference.") and hasattr(module, "float64"):
            monkeypatch.setattr(module, "float64", lambda x: np.asarray(x, np.float64).view(Counted))
    monkeypatch.setattr(Counted, "operations", 0)
    yield


@pytest.mark.usefixtures("counting")
@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(
            tie_embeddings=False, d_ff=20, n_kv_heads=2, d_head=6, activation="swiglu", position="rotary", qk_norm=True
        ),
        dict(activation="swiglu", use_bias=False, d_ff=6, n_experts=5, n_experts_per_token=3),
        dict(
            position="rotary",
            rotary_fraction=0.5,
            parallel_residual=True,
            norm_place="both",
            sliding_window=2,
            layer_pattern="LG",
            score_softcap=2.0,
            logits_softcap=3.0,
            attention_scale=0.7,
            d_head=4,
        ),
    ],
)
def test_operations_are_those_of_the_reference(options: dict[str, Any]) -> None:
    """Forward, and the backward at twice the forward, of full contexts."""
    config = GPTConfig(vocab_size=11, context_length=5, d_model=8, n_layers=2, n_heads=4, norm="rms_norm", **options)
    params = jax.tree.map(np.asarray, random_parameters(GPT(config)))
    tokens = np.arange(10).reshape(2, 5)
    logits, pullback = reference.gpt.forward_vjp(config, params, tokens)
    assert Counted.operations == tokens.size * flops_per_token(config) / 3
    pullback(np.ones(logits.shape).view(Counted))
    assert Counted.operations == tokens.size * flops_per_token(config)
