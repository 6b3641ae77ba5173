"""Steps whose loss or gradient is not finite: counted, not applied, and reported with the place where it began."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from models import random_like
from runs import Step, lines, write_config

import train.loop
from jaxllm import GPT, GPTConfig
from jaxllm.reference import step as reference_step
from jaxllm.reference.optimizer import learning_rate
from train.cli import main
from train.config import OptimizerConfig, TrainConfig
from train.nonfinite import apply_if, first_not_finite, parts_backward
from train.optimizer import learning_rate_schedule, make_optimizer
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.state import abstract_state, init_state
from train.step import make_train_step

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

MODEL = GPTConfig(
    vocab_size=7, context_length=4, d_model=8, n_layers=12, n_heads=2, activation="relu", tie_embeddings=False,
    ngrams=2, ngram_rows=5,
)  # fmt: skip
OPTIMIZER = OptimizerConfig(warmup_steps=0)
TRAINING = TrainConfig(steps=10, batch_size=2)


def random_params() -> dict[str, Any]:
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return random_like(jax.eval_shape(GPT(MODEL).init, jax.random.key(0), tokens)["params"])


def test_every_parameter_is_in_one_part_and_the_twin_agrees_on_the_order() -> None:
    params = random_params()
    parts = parts_backward(params)
    assert parts == reference_step.parts_backward(params)
    assert parts[:3] == ["head", "norm_final", "block_11/mlp"] and parts[-1] == "token_embedding"
    names = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree.leaves_with_path(params)]
    assert all(sum(name.startswith(f"{part}/") for part in parts) == 1 for name in names)
    assert all(any(name.startswith(f"{part}/") for name in names) for part in parts)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30], ids=str)
def test_the_first_part_backward_is_found(value: float) -> None:
    """1e30 is finite, but its square, which clipping needs, is not."""
    gradients = jax.device_get(random_params())
    assert first_not_finite(gradients) == reference_step.first_not_finite(gradients) == -1
    parts = parts_backward(gradients)
    for place in (len(parts) - 1, 20, 2, 0):  # the last part first, each replaced by an earlier one
        name, _, inner = parts[place].partition("/")
        leaves, tree = jax.tree.flatten(gradients[name][inner] if inner else gradients[name])
        leaves = [np.array(leaf) for leaf in leaves]
        leaves[-1].flat[-1] = value
        gradients[name] = gradients[name] | {inner: tree.unflatten(leaves)} if inner else tree.unflatten(leaves)
        assert first_not_finite(gradients) == place
        if not np.isfinite(value):
            assert reference_step.first_not_finite(gradients) == place


@pytest.mark.parametrize(
    ("poison", "where"),
    [
        (("norm_final", "scale", np.inf), "head"),
        (("block_3", "mlp", 1e24), "block_3/mlp"),
        (("targets", "", np.nan), "head"),
    ],
    ids=["both", "gradient", "loss"],
)
def test_such_a_step_is_counted_and_changes_nothing_else(poison: tuple[str, str, float], where: str) -> None:
    """Three cases: both are non-finite; only the gradient (an MLP scaled up by 1e24 and down again); only the loss.

    The last is of a target outside the vocabulary, which has no gradient.
    """
    shallow = replace(MODEL, n_layers=4)
    state = init_state(GPT(shallow), make_optimizer(OPTIMIZER, TRAINING.steps), seed=0)
    name, inner, value = poison
    targets = tokens = np.arange(8).reshape(2, 4) % 7
    if name == "targets":
        targets = np.where(np.arange(8).reshape(2, 4) == 5, 7, tokens)
    else:
        changed = state.params[name][inner]
        if inner == "mlp":
            up, down = changed["up"]["kernel"] * value, changed["down"]["kernel"] / value
            changed = {"up": changed["up"] | {"kernel": up}, "down": changed["down"] | {"kernel": down}}
        else:
            changed = changed.at[0].set(value)
        state = state._replace(params=state.params | {name: state.params[name] | {inner: changed}})
    before = jax.device_get(state)
    schedule = learning_rate_schedule(OPTIMIZER, TRAINING.steps)
    step = make_train_step(GPT(shallow), make_optimizer(OPTIMIZER, TRAINING.steps), TRAINING, schedule)
    after, metrics = step(state, tokens, targets)
    assert parts_backward(before.params)[int(metrics["not_finite"])] == where
    finite = tuple(bool(jnp.isfinite(metrics[name])) for name in ("train_loss", "grad_norm"))
    assert finite == {"norm_final": (False, False), "block_3": (True, False), "targets": (False, True)}[name]
    assert int(after.step) == 1
    same = jax.tree.map(np.array_equal, (before.params, before.opt_state), (after.params, after.opt_state))
    changed_leaves = [jax.tree_util.keystr(path) for path, equal in jax.tree.leaves_with_path(same) if not equal]
    assert changed_leaves == ["[1][1][2].count"]  # of the schedule, which counts steps
    if where == "head":
        with np.errstate(all="ignore"):
            twin, want = reference_step.train_step(
                shallow, OPTIMIZER, TRAINING.steps, reference_step.start(before.params), tokens, targets
            )
        assert want["not_finite"] == int(metrics["not_finite"]) and twin.step == 1 and twin.moments.updates == 0
        jax.tree.map(np.testing.assert_array_equal, twin.params, before.params)


def test_a_step_left_out_counts_for_the_weights_of_schedule_free() -> None:
    """In the warm-up, where the next step weighs more. The twin counts every step."""
    rule = replace(OPTIMIZER, name="schedule_free_adamw", warmup_steps=6)
    optimizer, gradients = make_optimizer(rule, 10), {"kernel": jnp.array([[1.0, 2.0]])}
    params, state = gradients, optimizer.init(gradients)
    update = jax.jit(optimizer.update)
    same = twin = {"kernel": np.array([[1.0, 2.0]])}
    twin_state = reference_step.optimizer.start(twin, rule.name)
    for step, finite in enumerate((True, False, True)):
        updates, new_state = update(gradients, state, params)
        params, state = apply_if(finite, (optax.apply_updates(params, updates), new_state), (params, state))
        if finite:
            updates, twin_state = reference_step.optimizer.update(rule, 10, step, same, twin_state, twin)
            twin = jax.tree.map(np.add, twin, updates)
    assert state[1].weight_sum == pytest.approx(twin_state.weights, rel=1e-6)
    assert state[1].max_lr == pytest.approx(learning_rate(rule, 10, 2), rel=1e-6)
    np.testing.assert_allclose(params["kernel"], twin["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "gradient", "where"),
    [(np.inf, 1.0, 0), (np.nan, 1.0, 0), (1.0, np.inf, 1), (1.0, np.nan, 1), (np.nan, np.inf, 1), (1.0, 1.0, -1)],
    ids=str,
)
def test_the_reference_leaves_out_what_is_not_finite_in_either(
    loss: float, gradient: float, where: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = {"head": {"kernel": np.ones((2, 3))}, "norm_final": {"scale": np.ones(2)}}
    gradients = {"head": {"kernel": np.ones((2, 3))}, "norm_final": {"scale": np.array([1.0, gradient])}}
    monkeypatch.setattr(reference_step, "accumulate", lambda *_: (loss, gradients))
    after, metrics = reference_step.train_step(GPTConfig(), OPTIMIZER, 10, reference_step.start(params), [], [])
    assert metrics["not_finite"] == where and after.step == 1
    assert after.moments.updates == (where < 0)
    assert np.array_equal(after.params["head"]["kernel"], params["head"]["kernel"]) == (where >= 0)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The config of a run whose sixth and eighth batches hold an id outside the vocabulary, whose embedding is NaN."""

    def damaged(*arguments: Any) -> Any:
        inputs, targets = batch(*arguments)
        if arguments[4] in (5, 7):  # the step
            inputs = inputs.copy()
            inputs[1, 2] = 11
        return inputs, targets

    batch = train.loop.batch
    monkeypatch.setattr(train.loop, "batch", damaged)
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("every = 5", "every = 1\nkeep = 20"))
    yield path


@pytest.mark.newest
def test_the_run_ends_and_says_where(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert "train_loss is nan at step 6, first of all token_embedding is not finite: the run has diverged" in error
    assert "checkpoints holds step 5)." in error and error.count("\n") == 1
    assert lines(tmp_path / "run")[-1]["step"] == 5
    assert load_run(tmp_path / "run").step == 5


@pytest.mark.newest
def test_a_non_finite_gradient_is_reported_by_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def begun(*arguments: Any) -> Any:
        state, step = begin(*arguments)
        metrics = {"train_loss": jnp.ones(()), "learning_rate": jnp.ones(()), "grad_norm": jnp.array(jnp.inf)}
        return state, Step(lambda state, *_: (state, metrics | {"not_finite": jnp.asarray(3)}))

    begin = train.loop.init_and_compile
    monkeypatch.setattr(train.loop, "init_and_compile", begun)
    assert main(["train", str(write_config(tmp_path)), "--out", str(tmp_path / "run")]) == 1
    assert "the norm of the gradient is inf at step 1, coming backward first in block_0/attention: the run has" in (
        capsys.readouterr().err
    )


@pytest.mark.newest
def test_as_many_as_allowed_are_left_out(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["train", str(config), "--out", str(run), "--set", "train.max_skipped=1"]) == 1
    assert "train_loss is nan at step 8" in capsys.readouterr().err
    assert [r["step"] for r in lines(run) if r["train_loss"] is None] == [6]
    assert main(["train", "--out", str(run), "--resume", "--set", "train.max_skipped=2"]) == 0
    out = capsys.readouterr().out
    assert "step 8, first of all token_embedding is not finite: left out, 2 of at most 2" in out
    records = lines(run)
    assert [(r["step"], r["skipped"]) for r in records if "skipped" in r] == [(6, 1), (8, 2)]
    assert all((r["train_loss"] is None) == (r["grad_norm"] is None) == ("skipped" in r) for r in records)
    json.dumps(records, allow_nan=False)
    optimizer = load_run(run).config.optimizer
    want = [learning_rate(optimizer, 12, step) for step in range(12)]
    assert [r["learning_rate"] for r in records] == pytest.approx(want, rel=1e-5)

    checkpoints, trained = Checkpoints(run / "checkpoints"), load_run(run, with_optimizer=True)
    like = abstract_state(trained.model, trained.config)
    states = {step: checkpoints.restore(like, step) for step in (5, 6, 7)}
    jax.tree.map(np.testing.assert_array_equal, states[5].params, states[6].params)
    assert not np.array_equal(*(jax.tree.leaves(states[step].params)[0] for step in (6, 7)))
    counts = optax.tree.get_all_with_path(trained.opt_state, "count")
    assert sorted(int(count) for _, count in counts) == [10, 12]  # Adam's own, and the schedule's
    assert main(["compare", str(run), "--length", "4"]) == 0
