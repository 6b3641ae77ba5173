"""A whole training run by JAX and by NumPy: the same initial parameters and batches, 100 steps."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import compiled_for
from models import random_like

from jaxllm import GPT, GPTConfig
from jaxllm.compare.trees import in_dtype
from jaxllm.data import batch
from jaxllm.reference import step as reference_step
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.state import TrainState, first_state
from train.step import make_train_step

STEPS, BATCH = 100, 4
MODEL = GPTConfig(vocab_size=11, context_length=8, d_model=16, n_layers=2, n_heads=2)
VARIANTS = {
    "gpt2": (MODEL, 2),
    "all else": (
        replace(
            MODEL, n_heads=4, n_kv_heads=2, norm="rms_norm", activation="gelu", position="sinusoidal",
            tie_embeddings=False, use_bias=False, mup_base_width=12,
        ),
        1,
    ),
    "small": (replace(MODEL, n_layers=1, norm="rms_norm", use_bias=False, tie_embeddings=False), 1),
}  # fmt: skip
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, min_learning_rate=1e-3, warmup_steps=10, clip_norm=1.0)
OTHERS = [
    replace(OPTIMIZER, name="muon", schedule="wsd", momentum=0.9),
    replace(OPTIMIZER, name="lion", schedule="linear", learning_rate=3e-3),
    replace(OPTIMIZER, name="adafactor", schedule="linear", learning_rate=5e-2),
    replace(OPTIMIZER, name="sgd", schedule="wsd", learning_rate=1e-1, decay_share=0.5),
    replace(OPTIMIZER, name="schedule_free_adamw", schedule="constant"),
]
IDS = np.random.default_rng(0).integers(11, size=400).repeat(2).astype(np.int32)  # a pattern to be learned


def run_twice(name: str, dtype: str, rule: OptimizerConfig = OPTIMIZER) -> tuple[Any, Any, list[Any], list[Any]]:
    """Parameters at the end and the metrics of each step, by JAX and by NumPy."""
    model, micro_batches = VARIANTS[name]
    config = TrainConfig(steps=STEPS, batch_size=BATCH, grad_accumulation=micro_batches)
    optimizer = make_optimizer(rule, STEPS, model.width_ratio)
    gpt = GPT(model)
    with jax.enable_x64(dtype == "float64"), compiled_for(dtype):
        shapes = jax.eval_shape(partial(first_state, gpt, optimizer), jax.random.key(0))
        params = random_like(jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), shapes.params), scale=0.3)
        state = in_dtype(TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params)), dtype)
        twin = reference_step.start(jax.device_get(params), rule.name)
        train_step = make_train_step(gpt, optimizer, config, learning_rate_schedule(rule, STEPS))
        ours, theirs = [], []
        for s in range(STEPS):
            x, y = batch(IDS, model.context_length, BATCH, seed=0, step=s)
            state, metrics = train_step(state, x, y)
            twin, twin_metrics = reference_step.train_step(model, rule, STEPS, twin, x, y, micro_batches)
            ours.append({k: float(v) for k, v in metrics.items()})
            theirs.append(twin_metrics)
        return jax.device_get(state.params), twin.params, ours, theirs


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *[pytest.param(name, OPTIMIZER, id=name) for name in ("gpt2", "all else")],
        *[pytest.param("small", rule, id=rule.name) for rule in OTHERS],
    ],
)
def test_in_float64(name: str, rule: OptimizerConfig) -> None:
    """Losses to 1e-11 at each step, parameters to 1e-9 at the end.

    The model of the other optimizers has no biases: Lion would move those of keys by the sign of a rounding error.
    """
    params, want, ours, theirs = run_twice(name, "float64", rule)
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.keys() == wanted.keys()
        for metric, value in wanted.items():
            assert got[metric] == pytest.approx(value, rel=1e-11, abs=1e-11), metric
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), params, want)
    assert theirs[-1]["train_loss"] < 0.8 * theirs[0]["train_loss"]  # it has learned, so the parameters have changed


@pytest.mark.newest
def test_in_float32() -> None:
    """Losses and parameters to 1e-5 relative, the biases of keys to 1e-2.

    A key's bias adds the same to all scores of a query, which softmax ignores, so its gradient is only rounding. Adam
    divides a gradient by its size, so rounding decides how such a bias moves; it has no effect on the model.
    """
    params, want, ours, theirs = run_twice("gpt2", "float32")
    for got, wanted in zip(ours, theirs, strict=True):
        for metric, value in wanted.items():
            assert got[metric] == pytest.approx(value, rel=1e-5), metric

    def check(path: Any, got: Any, wanted: Any) -> None:
        where = jax.tree_util.keystr(path)
        np.testing.assert_allclose(
            got, wanted, rtol=0, atol=1e-2 if "['key']['bias']" in where else 1e-5, err_msg=where
        )

    jax.tree_util.tree_map_with_path(check, params, want)
