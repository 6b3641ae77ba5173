"""The optimizer step: its schedule, decay, clipping, accumulation, dropout, donation and compilation."""

from dataclasses import replace
from functools import cache
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from libraries import INSTALLED
from models import TINY, random_like, random_tokens

from jaxllm import GPT, GPTConfig, reference
from jaxllm.gpt import Block
from jaxllm.layers import Dropout, dropout_mask
from jaxllm.loss import cross_entropy
from train.config import OptimizerConfig, TrainConfig
from train.optimizer import OPTIMIZERS, learning_rate_schedule, make_optimizer
from train.state import TrainState, init_and_compile, init_state
from train.step import dropout_key, make_eval_step, make_model, make_train_step

# Rules are tested here; `test_training_twice.py` compares the numbers of a step compiled as for use.
pytestmark = pytest.mark.usefixtures("quick_compilation")

OPTIMIZER = OptimizerConfig(learning_rate=0.1, min_learning_rate=0.01, warmup_steps=4)
DROPPING = replace(TINY, n_layers=1, dropout=0.3)
X, Y = random_tokens(TINY, 4, seed=1), random_tokens(TINY, 4, seed=2)


@cache  # compiling takes most of the time, so equal settings share a step
def build(model: GPTConfig, optimizer: OptimizerConfig, config: TrainConfig) -> tuple[Any, TrainState]:
    transformation = make_optimizer(optimizer, config.steps)
    gpt = GPT(model, config.dtype)
    step = make_train_step(gpt, transformation, config, learning_rate_schedule(optimizer, config.steps))
    return step, jax.device_get(init_state(gpt, transformation, config.seed))


def setup(model: GPTConfig = TINY, optimizer: OptimizerConfig = OPTIMIZER, **train: Any) -> tuple[Any, TrainState]:
    """A train step and its first state, whose buffers are the caller's own."""
    step, state = build(model, optimizer, TrainConfig(steps=20, batch_size=4, **train))
    return step, jax.tree.map(jnp.array, state)


def assert_close(a: Any, b: Any, tolerance: float = 1e-6) -> None:
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance), a, b)


def test_schedule_is_nanogpts() -> None:
    """lr (s + 1) / (warmup + 1) up to the warm-up's end, then half a cosine wave down to the minimum."""
    schedule = learning_rate_schedule(OPTIMIZER, 20)
    for s in range(25):
        if s < 4:
            want = 0.1 * (s + 1) / 5
        else:
            want = 0.01 + 0.5 * (1 + np.cos(np.pi * min(1, (s - 4) / (20 - 4)))) * (0.1 - 0.01)
        assert schedule(s) == pytest.approx(want, rel=1e-5)
    assert learning_rate_schedule(replace(OPTIMIZER, warmup_steps=0), 20)(0) == pytest.approx(0.1)
    assert learning_rate_schedule(replace(OPTIMIZER, warmup_steps=0), 20)(20) == pytest.approx(0.01)


def test_the_config_selects_the_optimizer_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that a config allows has a function, which makes the update after clipping."""
    assert set(get_args(get_args(get_type_hints(OptimizerConfig)["name"])[0])) == set(OPTIMIZERS)
    monkeypatch.setitem(OPTIMIZERS, "adamw", lambda config, schedule: optax.sgd(schedule))
    gradients = {"kernel": jnp.full((2, 2), 5.0)}  # of norm 10, clipped to 1
    optimizer = make_optimizer(replace(OPTIMIZER, warmup_steps=0), 20)
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    np.testing.assert_allclose(updates["kernel"], -0.1 * np.full((2, 2), 0.5), rtol=1e-6)


def test_the_optimizer_agrees_with_its_twin() -> None:
    """Schedule, clipping, moments and update of a matrix and a vector, from random moments, in float64."""
    from jaxllm.compare import compare_optimizer

    params = random_like({"map": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}})
    gradients = random_like(params, seed=1)  # longer than clip_norm
    optimizer, schedule = make_optimizer(OPTIMIZER, 20), learning_rate_schedule(OPTIMIZER, 20)
    rows = compare_optimizer(optimizer, schedule, OPTIMIZER, 20, 3, params, gradients, dtype="float64")
    assert len(rows) == 3 + 4 * 2
    assert not [row for row in rows if not row.relative <= 1e-12]


@pytest.mark.parametrize("products", ["xla", *INSTALLED])
def test_steps_agree_with_the_reference(products: str) -> None:
    """Metrics and parameters of three steps of two microbatches; `test_training_twice.py` takes a hundred, in float64."""
    step, state = setup(grad_accumulation=2, products=products)
    state = state._replace(params=random_like(state.params, scale=0.3))
    twin = reference.step.start(jax.device_get(state.params))
    for _ in range(3):
        state, metrics = step(state, X, Y)
        twin, wanted = reference.step.train_step(TINY, OPTIMIZER, 20, twin, X, Y, 2)
        assert metrics == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()}
    assert state.step == twin.step == 3
    for name in ("token_embedding", "norm_final"):
        assert_close(state.params[name], twin.params[name], 1e-5)


def test_clipping() -> None:
    """Adam's moments see the clipped gradient: its norm is clip_norm, up to (1 - beta1)."""
    step, state = setup(optimizer=replace(OPTIMIZER, clip_norm=1e-3))
    state, metrics = step(state, X, Y)
    moments = [x for x in jax.tree.leaves(state.opt_state[1][0].mu)]
    assert np.sqrt(sum((m**2).sum() for m in moments)) == pytest.approx(1e-3 * 0.1, rel=1e-4)
    assert metrics["grad_norm"] > 0.1


@pytest.mark.parametrize("n", [2, 4])
def test_accumulated_microbatches_are_the_full_batch(n: int) -> None:
    whole, state = setup()
    parts, same_state = setup(grad_accumulation=n)
    for _ in range(3):
        state, m = whole(state, X, Y)
        same_state, n_metrics = parts(same_state, X, Y)
        assert_close(m, n_metrics, 1e-5)
    moments, same = (s.opt_state[1][0] for s in (state, same_state))
    assert_close((moments.mu, moments.nu), (same.mu, same.nu), 1e-6)


def test_it_memorises_a_batch() -> None:
    step, state = setup(optimizer=replace(OPTIMIZER, learning_rate=0.03, weight_decay=0.0))
    first = None
    for _ in range(60):
        state, metrics = step(state, X, Y)
        first = first or metrics["train_loss"]
    assert first == pytest.approx(np.log(17), abs=0.1)
    assert metrics["train_loss"] < 0.2


def test_bfloat16_learns_and_keeps_float32_parameters() -> None:
    step, state = setup(dtype="bfloat16")
    plain, plain_state = setup()
    for _ in range(5):
        state, metrics = step(state, X, Y)
        plain_state, plain_metrics = plain(plain_state, X, Y)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    assert metrics["train_loss"] == pytest.approx(float(plain_metrics["train_loss"]), abs=0.1)
    assert metrics["train_loss"] != plain_metrics["train_loss"]


def test_the_state_is_donated_and_nothing_is_compiled_twice() -> None:
    """On a separate model, because tests share their steps."""
    step, state = setup(model=replace(DROPPING, d_ff=20), grad_accumulation=2)
    for _ in range(3):
        before = state
        state, _ = step(state, X, Y)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert step._cache_size() == 1


@pytest.mark.newest
def test_init_and_compile_gives_the_same_state_and_step() -> None:
    config = TrainConfig(steps=20, batch_size=4, seed=5)
    optimizer, schedule = make_optimizer(OPTIMIZER, 20), learning_rate_schedule(OPTIMIZER, 20)
    step, want = setup(model=DROPPING, seed=5)
    gpt = GPT(DROPPING, "float32")
    state, compiled = init_and_compile(gpt, optimizer, make_train_step(gpt, optimizer, config, schedule), config)
    jax.tree.map(np.testing.assert_array_equal, state, want)
    assert_close(compiled(state, X, Y), step(want, X, Y))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.newest
def test_with_remat_a_step_gives_the_same() -> None:
    config = TrainConfig(steps=20, batch_size=4, remat=True)
    optimizer, schedule = make_optimizer(OPTIMIZER, 20), learning_rate_schedule(OPTIMIZER, 20)
    gpt = make_model(TINY, config)
    state, compiled = init_and_compile(gpt, optimizer, make_train_step(gpt, optimizer, config, schedule), config)
    step, want = setup()
    for _ in range(2):
        (state, metrics), (want, wanted) = compiled(state, X, Y), step(want, X, Y)
        assert_close(metrics, wanted, 1e-5)


@pytest.mark.newest
@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="an accelerator adds up in no fixed order")
def test_the_same_seed_gives_the_same_bits() -> None:
    outcomes = []
    for seed in (0, 0, 1):
        step, state = setup(model=DROPPING, grad_accumulation=2, seed=seed)
        for _ in range(3):
            state, _ = step(state, X, Y)
        outcomes.append(np.concatenate([np.ravel(x) for x in jax.tree.leaves(jax.device_get(state.params))]))
    np.testing.assert_array_equal(outcomes[0], outcomes[1])
    assert (outcomes[0] != outcomes[2]).any()


def test_dropout_is_on_in_training_and_off_in_evaluation() -> None:
    step, state = setup(model=DROPPING, grad_accumulation=2)
    model, weights = GPT(DROPPING), jnp.ones(X.shape)
    evaluated = make_eval_step(model)(state.params, X, Y, weights) / X.size
    plain = cross_entropy(GPT(replace(DROPPING, dropout=0.0)).apply({"params": state.params}, X), Y)
    assert evaluated == pytest.approx(float(plain), rel=1e-6)
    params = random_like(state.params)  # at initialisation logits hardly depend on anything
    losses = []
    for s in (0, 0, 1):
        copy = jax.tree.map(jnp.copy, (params, state.opt_state))  # the step consumes its state
        losses.append(float(step(TrainState(jnp.array(s), *copy), X, Y)[1]["train_loss"]))
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != pytest.approx(float(make_eval_step(model)(params, X, Y, weights)) / X.size, rel=1e-3)


def test_evaluation_counts_only_weighted_tokens() -> None:
    _, state = setup()
    params, weights = random_like(state.params), np.zeros(X.shape, np.float32)
    weights[1, 2] = weights[3, 7] = 1
    want = reference.loss.token_losses(reference.gpt.forward(TINY, params, X), Y)
    got = make_eval_step(GPT(TINY))(params, X, Y, weights)
    assert got == pytest.approx(want[1, 2] + want[3, 7], rel=1e-5)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_mask(rate: float) -> None:
    mask = np.asarray(dropout_mask(dropout_key(0), (1000, 100), rate))
    kept = 1 / (1 - rate)
    np.testing.assert_allclose(np.unique(mask), [0, kept], rtol=1e-4)
    assert (mask == 0).mean() == pytest.approx(rate, abs=0.01)
    assert mask.mean() == pytest.approx(1, abs=0.03)
    for shifted in (mask[1:] * mask[:-1], mask[:, 1:] * mask[:, :-1]):  # neighbours are independent
        assert shifted.mean() == pytest.approx(1, abs=0.05 * kept)


@pytest.mark.parametrize("trace_once", [False, True])
def test_every_dropout_site_draws_its_own_mask(trace_once: bool) -> None:
    """Embedding, and in each block attention weights, attention output and MLP output: all with different masks."""
    seen: list[np.ndarray] = []

    class Spy(Dropout):
        def mask(self, shape: tuple[int, ...]) -> jax.Array | None:
            jax.debug.callback(lambda mask: seen.append(np.asarray(mask)), super().mask(shape))
            return None

    import jaxllm.attention
    import jaxllm.block
    import jaxllm.gpt

    with pytest.MonkeyPatch.context() as patch:
        for module in (jaxllm.gpt, jaxllm.block, jaxllm.attention):
            patch.setattr(module, "Dropout", Spy)
        config = replace(TINY, dropout=0.5)
        params = GPT(config).init(jax.random.key(0), X)["params"]
        seen.clear()
        GPT(config, block=nn.jit(Block) if trace_once else Block).apply(
            {"params": params}, X, rngs={"dropout": dropout_key(0)}
        )
        jax.effects_barrier()
    assert len(seen) == 1 + 3 * TINY.n_layers
    same_shape = [mask for mask in seen if mask.shape == seen[0].shape]
    assert len(same_shape) == 1 + 2 * TINY.n_layers
    for i, a in enumerate(same_shape):
        assert not any((a == b).all() for b in same_shape[:i])
