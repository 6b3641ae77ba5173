"""Model, gradients and optimizer step beside the reference: an error in any of them is found and named."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_like, random_tokens

import jaxllm.layers
from jaxllm import GPT
from jaxllm.compare import (
    Comparison,
    Report,
    arithmetic,
    compare_model,
    compare_optimizer,
    random_parameters,
)
from jaxllm.layers import gelu_tanh, layer_norm
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer


@pytest.mark.newest
def test_a_model_of_nan_does_not_agree() -> None:
    params = jax.tree.map(lambda p: p * math.nan, random_parameters(GPT(TINY)))
    rows, _ = compare_model(TINY, params, random_tokens(TINY, 1), random_tokens(TINY, 1))
    assert not any(row.passed for row in rows)
    assert "nothing but NaN in both" in str(Report.of("float32", rows))


def model_report(dtype: str = "float64") -> Report:
    rows, _ = compare_model(
        TINY, random_parameters(GPT(TINY)), random_tokens(TINY, 2), random_tokens(TINY, 2, seed=1), dtype
    )
    return Report.of(dtype, rows)


def test_the_model_agrees_and_every_intermediate_is_there() -> None:
    report = model_report()
    assert report.passed and not any(r.jump for r in report.rows)
    forward, backward = ({r.name for r in report.rows if r.stage == s} for s in ("forward", "backward"))
    inside = {"norm_1", "attention/query", "attention/key", "attention/value", "attention", "norm_2", "mlp/up", "mlp"}
    blocks = {f"block_{i}/{name}" for i in range(2) for name in inside} | {"block_0", "block_1"}
    ends = {"token_embedding", "position_embedding", "norm_final", "logits"}
    sown = {f"block_{i}/{name}" for i in range(2) for name in ("attention/weights", "residual_1")}
    assert forward == blocks | ends | sown | {"loss"}
    assert backward == blocks | ends
    gradients = [r.name for r in report.rows if r.stage == "gradient"]
    assert len(gradients) == 2 + 2 + 2 * 16 and gradients[-1] == "token_embedding/table"
    assert all(r.shape for r in report.rows if r.name != "loss")


@pytest.mark.newest
def test_a_fault_in_the_forward_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jaxllm.layers.NORMS, "layer_norm", lambda *x: layer_norm(*x[:3], 1e-6))
    report = model_report()
    assert [r.name for r in report.rows if r.jump] == ["block_0/norm_1"] == [_first_failed(report).name]
    assert "look at forward block_0/norm_1 first" in report.summary()


@pytest.mark.newest
def test_a_fault_in_the_backward_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    @jax.custom_vjp
    def wrong(x: jax.Array) -> jax.Array:
        return gelu_tanh(x)

    wrong.defvjp(lambda x: (gelu_tanh(x), x), lambda x, dy: (jax.vjp(gelu_tanh, x)[1](dy)[0] * 1.01,))
    monkeypatch.setitem(jaxllm.layers.ACTIVATIONS, "gelu_tanh", wrong)
    report = model_report("float32")
    first = _first_failed(report)
    assert (first.stage, first.name, first.jump) == ("backward", "block_1/mlp/up", True)


@pytest.mark.newest
def test_a_relu_flipped_by_rounding_is_noted_and_within_tolerance() -> None:
    """Its slope is 0 or 1. In float64 no input changes its sign, so a wrong slope is found."""
    config = replace(TINY, activation="relu", d_ff=64)
    arguments = config, random_parameters(GPT(config)), random_tokens(config), random_tokens(config, seed=1)
    rows, _ = compare_model(*arguments, "bfloat16")
    noted = [r for r in rows if "ReLUs on the other side of zero" in r.note]
    assert noted and all(r.stage == "backward" and r.name.endswith("mlp/up") for r in noted)
    report = Report.of("bfloat16", rows)
    assert report.passed and not any(r.jump for r in report.rows)
    rows, _ = compare_model(*arguments, "float64")
    assert not any("ReLU" in r.note or r.tolerance > 1e-10 for r in rows) and Report.of("float64", rows).passed


def _first_failed(report: Report) -> Comparison:
    return next(r for r in report.rows if not r.passed)


def test_arithmetic_is_restored() -> None:
    before = jax.config.jax_enable_x64
    with arithmetic("float64"):
        assert jnp.ones(()).dtype == "float64"
    assert jax.config.jax_enable_x64 == before and jnp.ones(()).dtype == "float32"


def test_random_parameters_hide_nothing() -> None:
    params = random_parameters(GPT(replace(TINY, tie_embeddings=False)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.dtype == "float32" and len(np.unique(leaf)) == leaf.size, path


@pytest.mark.parametrize(("fault", "stage"), [
    ({"beta1": 0.8}, "first moment"),
    ({"beta2": 0.9}, "second moment"),
    ({"weight_decay": 0.0}, "update"),
    ({"clip_norm": 1e-3}, "first moment"),
    ({"learning_rate": 2e-3}, "learning_rate"),
])  # fmt: skip
def test_a_fault_in_the_optimizer_is_found(fault: dict[str, float], stage: str) -> None:
    params = random_like({"map": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}})
    gradients = random_like(params, seed=1)

    def rows(**change: float) -> list[Comparison]:
        config, steps = OptimizerConfig(), TrainConfig().steps
        faulty = replace(config, **change)
        optimizer, schedule = make_optimizer(faulty, steps), learning_rate_schedule(faulty, steps)
        return compare_optimizer(optimizer, schedule, config, steps, 3, params, gradients)

    assert all(row.passed for row in rows())
    failed = [row for row in rows(**fault) if not row.passed]
    assert any(stage in f"{r.stage} {r.name}" for r in failed)
