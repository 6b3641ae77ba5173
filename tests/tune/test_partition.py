"""Parameters that change, and those that do not: a step changes the first alone, with the gradients of the whole."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from libraries import INSTALLED
from models import TINY, VARIANTS, random_tokens
from pretrained_files import refusal

from jaxllm import GPT
from jaxllm.compare import random_parameters
from jaxllm.lora import LoraKernel
from jaxllm.pretrained.parameter_map import nested
from jaxllm.reference.step import accumulate
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import learning_rate_schedule, make_optimizer
from train.runs.checkpoint import saved_parts
from train.state import state_of
from train.step import make_model, make_train_step
from train.tune.config import LoraConfig
from train.tune.partition import Partition, joined, merged

pytestmark = pytest.mark.newest

LLAMA = replace(TINY, **VARIANTS["llama"])
KEY = jax.random.key(3)
DROPPED = LoraConfig(rank=2, dropout=0.5, targets="value")
ADAPTED = Partition(lora=LoraConfig(rank=2, alpha=6.0))


def params_of(config: Any = LLAMA) -> Any:
    return jax.device_get(random_parameters(GPT(config)))


def flat(tree: Any) -> dict[str, Any]:
    return dict(flatten_dict(tree, sep="/"))


def test_split_and_join_are_inverse() -> None:
    params = params_of()
    changing, frozen = Partition(train="norm").split(params, KEY)
    assert flat(changing).keys() | flat(frozen).keys() == flat(params).keys()
    assert set(flat(changing)) == {path for path in flat(params) if "norm" in path}
    jax.tree.map(np.testing.assert_array_equal, Partition(train="norm").join(changing, frozen), params)


def test_adapters_stand_beside_frozen_maps() -> None:
    params = params_of()
    changing, frozen = ADAPTED.split(params, KEY)
    jax.tree.map(np.testing.assert_array_equal, frozen, params)
    kernels = {path for path in flat(params) if path.startswith("block_") and path.endswith("kernel")}
    assert set(flat(changing)) == {f"{path}/{leaf}" for path in kernels for leaf in "ab"}
    whole = flat(ADAPTED.join(changing, frozen))
    assert {path for path, leaf in whole.items() if isinstance(leaf, LoraKernel)} == kernels
    assert all(whole[path].scale == 3.0 for path in kernels)


@pytest.mark.parametrize("base", ["float32", "int8"])
@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"remat": True, "grad_accumulation": 2}, 1e-5),
        ({"dtype": "bfloat16"}, 6e-2),
        pytest.param(
            {"products": "onednn"}, 1e-5, marks=pytest.mark.skipif("onednn" not in INSTALLED, reason="absent")
        ),
    ],
)
def test_ways_to_compute_a_step_of_adapters(settings: dict[str, Any], tolerance: float, base: Any) -> None:
    """The norm of the gradient and the loss are those of a plain step, whose gradients the twin holds."""
    parts = Partition("norm", LoraConfig(rank=2, base=base))
    tokens = random_tokens(LLAMA, 4)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def step(**given: Any) -> tuple[float, float]:
        train, rule = TrainConfig(steps=2, batch_size=4, **given), OptimizerConfig(warmup_steps=0)
        optimizer, model = make_optimizer(rule, 2), make_model(LLAMA, train)
        state = state_of(params_of(), optimizer, KEY, parts)
        rng = np.random.default_rng(0)
        moved = jax.tree.map(lambda x: x + jnp.asarray(rng.normal(0, 0.1, x.shape), x.dtype), state.params)
        state = state._replace(params=moved)
        _, metrics = make_train_step(model, optimizer, train, learning_rate_schedule(rule, 2), parts=parts)(
            state, inputs, targets
        )
        return float(metrics["train_loss"]), float(metrics["grad_norm"])

    assert step(**settings) == pytest.approx(step(products="xla"), rel=tolerance)


def test_parameters_of_a_pattern_change_beside_adapters() -> None:
    parts = Partition("token_embedding", LoraConfig(rank=1, targets="query"))
    changing, frozen = parts.split(params_of(), KEY)
    assert {path.rpartition("/")[0] for path in flat(changing)} == {"token_embedding"} | {
        f"block_{i}/attention/query/kernel" for i in range(LLAMA.n_layers)
    }
    assert "token_embedding" not in frozen


def test_a_classifier_always_changes() -> None:
    params = params_of(replace(LLAMA, n_classes=3))
    assert "classifier" in ADAPTED.split(params, KEY)[0]
    assert "classifier" in Partition(train="norm").split(params, KEY)[0]


def test_a_pattern_that_matches_nothing() -> None:
    assert "tune.train is 'nothing', which matches none" in refusal(
        lambda: Partition("nothing").split(params_of(), KEY)
    )


def step_of(parts: Partition, params: Any, train: TrainConfig) -> tuple[Any, Any, Any]:
    """The state before and after a step of gradient descent, and its metrics."""
    config = OptimizerConfig(
        name="sgd", momentum=0.0, weight_decay=0.0, warmup_steps=0, learning_rate=1.0, clip_norm=1e9
    )
    optimizer, schedule = make_optimizer(config, 4), learning_rate_schedule(config, 4)
    state = state_of(params, optimizer, KEY, parts)
    dtype = params["norm_final"]["scale"].dtype
    state = state._replace(params=jax.tree.map(lambda x: x.astype(dtype) + 0.1, state.params))  # B is not zero any more
    before = jax.tree.map(jnp.copy, state)
    step = make_train_step(GPT(LLAMA), optimizer, train, schedule, parts=parts)
    tokens, targets = random_tokens(LLAMA, 4), random_tokens(LLAMA, 4, seed=1)
    after, metrics = step(state, tokens, targets)
    return before, after, metrics


def test_gradients_of_adapters_follow_from_those_of_the_whole() -> None:
    """With W' = W + s A B: dA = s dW' B^T and dB = s A^T dW', where dW' is the reference's at the merged weights."""
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), params_of())
        before, after, metrics = step_of(ADAPTED, params, TrainConfig(steps=4, batch_size=4, grad_accumulation=2))
        before, after = jax.device_get((before, after))
    whole = flat(params)
    adapter = flat(before.params)
    for path in {path.rpartition("/")[0] for path in adapter}:
        whole[path] = whole[path] + 3.0 * adapter[f"{path}/a"] @ adapter[f"{path}/b"]
    tokens, targets = random_tokens(LLAMA, 4), random_tokens(LLAMA, 4, seed=1)
    loss, gradients = accumulate(LLAMA, nested(whole), tokens, targets)
    assert float(metrics["train_loss"]) == pytest.approx(float(loss), rel=1e-10)
    dw = flat(gradients)
    for path, old in adapter.items():
        kernel, leaf = path.rpartition("/")[0], path[-1]
        b, a = adapter[f"{kernel}/b"], adapter[f"{kernel}/a"]
        want = 3.0 * (dw[kernel] @ b.T if leaf == "a" else a.T @ dw[kernel])
        np.testing.assert_allclose(old - flat(after.params)[path], want, rtol=1e-8, atol=1e-12, err_msg=path)


def test_a_step_leaves_frozen_parameters_and_their_state_out() -> None:
    before, after, _ = step_of(ADAPTED, params_of(), TrainConfig(steps=4, batch_size=4))
    jax.tree.map(np.testing.assert_array_equal, before.frozen, after.frozen)
    changed = jax.tree.map(lambda x, y: bool((x != y).any()), before.params, after.params)
    assert all(jax.tree.leaves(changed))
    config = OptimizerConfig()
    state = state_of(params_of(), make_optimizer(config, 4), KEY, ADAPTED)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sorted(x.shape for x in moments) == sorted(2 * [x.shape for x in jax.tree.leaves(state.params)])
    assert "frozen" not in saved_parts(state)


def test_with_new_adapters_the_model_is_the_base_to_the_bit() -> None:
    for lora in (LoraConfig(rank=2), LoraConfig(rank=2, targets="value")):
        parts, params = Partition(lora=lora), params_of()
        state = state_of(params, make_optimizer(OptimizerConfig(), 4), KEY, parts)
        tokens = random_tokens(LLAMA, 2)
        model = jax.jit(lambda p: GPT(LLAMA).apply({"params": p}, tokens))  # noqa: B023 (called at once)
        np.testing.assert_array_equal(model(joined(parts, state)), model(params))
        jax.tree.map(np.testing.assert_array_equal, merged(parts, state), params)


@pytest.mark.newest
def test_dropout_of_adapters_needs_a_key() -> None:
    """The seed decides which inputs are dropped."""
    train = TrainConfig(steps=4, batch_size=4)
    losses = [
        float(step_of(Partition(lora=lora), params_of(), replace(train, seed=seed))[2]["train_loss"])
        for lora, seed in ((LoraConfig(rank=2, targets="value"), 0), (DROPPED, 0), (DROPPED, 1))
    ]
    assert len(set(losses)) == 3
