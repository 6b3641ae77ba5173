"""Every optimizer and schedule by name: a step beside its twin, its memory, its cost, a resumed run, what is evaluated."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_like
from runs import lines, write_config

from jaxllm import GPT, reference
from jaxllm.compare import Report, compare_optimizer
from jaxllm.fast.platform import compiling_for
from jaxllm.utils.ideas import Idea
from train.cli import main
from train.config import EvalConfig, OptimizerConfig, RunConfig, TrainConfig
from train.config_file import as_dict
from train.eval_weights import EVAL_WEIGHTS
from train.evaluate import evaluator
from train.inputs import prepare
from train.memory_estimate import state_bytes
from train.optimizer import OPTIMIZERS, SCHEDULES, learning_rate_schedule, make_optimizer
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.state import TrainState, abstract_state, first_state
from train.step import apply_gradients

CONFIG = OptimizerConfig(learning_rate=0.1, min_learning_rate=0.01, warmup_steps=2, decay_share=0.7, clip_norm=0.5)
CASES = {"adamw": "cosine", "muon": "wsd", "lion": "linear", "adafactor": "constant", "sgd": "wsd",
         "schedule_free_adamw": "constant"}  # fmt: skip
PARAMS = {
    "block_0": {"tall": {"kernel": (5, 3), "bias": (3,)}, "wide": {"kernel": (3, 5)}},
    "block_1": {"wide": {"kernel": (3, 5)}, "experts": {"kernels": (4, 3, 5)}},
    "token_embedding": {"table": (7, 3)},
    "ngram_embedding": {"table": (4, 3)},
}


def shaped(tree: Any) -> Any:
    return {name: shaped(x) if isinstance(x, dict) else jnp.zeros(x) for name, x in tree.items()}


def rows(config: Any, made_by: Any = None, dtype: Any = "float64", ratio: float = 1.0) -> Any:
    """The comparison of the optimizer of `made_by` with the twin of `config`, at step 3 of 20."""
    made_by, params = made_by or config, random_like(shaped(PARAMS))
    optimizer, schedule = make_optimizer(made_by, 20, ratio), learning_rate_schedule(made_by, 20)
    gradients = random_like(params, seed=1)
    return compare_optimizer(
        optimizer, schedule, config, 20, 3, params, gradients, dtype=dtype, width_ratio=ratio
    )  # fmt: skip


def test_every_name_that_a_config_allows_has_a_function_and_a_twin() -> None:
    hints = get_type_hints(OptimizerConfig)
    assert (
        set(get_args(get_args(hints["name"])[0]))
        == set(OPTIMIZERS)
        == set(reference.optimizer.OPTIMIZERS)
        == set(CASES)
    )
    assert set(get_args(get_args(hints["schedule"])[0])) == set(SCHEDULES) == set(reference.schedules.SCHEDULES)
    assert set(SCHEDULES) == set(CASES.values())
    assert set(get_args(get_args(get_type_hints(EvalConfig)["weights"])[0])) == set(EVAL_WEIGHTS)


@pytest.mark.parametrize("name", CASES)
def test_a_step_agrees_with_its_twin(name: str) -> None:
    """Schedule, clipping, moments, update and parameters in float64, from a state after some updates."""
    found = rows(replace(CONFIG, name=name, schedule=CASES[name]))
    assert {"update", "parameters after it"} < {row.stage.partition(": ")[2] for row in found}
    assert not [row for row in found if not row.relative <= 1e-12]


@pytest.mark.parametrize("name", ["adamw", "muon", "lion", "schedule_free_adamw"])
def test_a_step_in_a_wider_model_agrees_with_its_twin(name: str) -> None:
    found = rows(replace(CONFIG, name=name, schedule=CASES[name]), ratio=2.5)
    assert not [row for row in found if not row.relative <= 1e-12]


def half(config: Any, steps: int) -> Any:
    return lambda step: config.learning_rate * (1 - step / (2 * steps))


half_twin = half  # arithmetic alone computes in NumPy too


def low(config: Any, steps: int) -> Any:
    return lambda step: 0.1 * half(config, steps)(step)


low_twin = half


def test_a_users_schedule_is_held_to_its_twin() -> None:
    right, wrong = (Report.of("float64", rows(replace(CONFIG, name="sgd", schedule=Idea(f)))) for f in (half, low))
    assert right.passed and all(row.compared for row in right.rows)
    assert {"learning_rate", "learning_rate, whole schedule"} < {row.name for row in wrong.rows if row.failed}


@pytest.mark.parametrize(("name", "fault", "where"), [
    ("muon", {"momentum": 0.9}, "momentum block_0/tall/kernel"),
    ("muon", {"beta2": 0.9}, "second moment token_embedding/table"),
    ("lion", {"beta2": 0.9}, "momentum block_0/tall/bias"),
    ("adafactor", {"weight_decay": 0.0}, "update block_0/wide/kernel"),
    ("schedule_free_adamw", {"beta1": 0.8}, "update block_0/tall/bias"),
    ("sgd", {"schedule": "linear"}, "learning_rate, whole schedule"),
])  # fmt: skip
def test_a_fault_is_found(name: str, fault: dict[str, Any], where: str) -> None:
    config = replace(CONFIG, name=name, schedule=CASES[name])
    failed = [f"{row.stage} {row.name}" for row in rows(config, replace(config, **fault), "float32") if row.failed]
    assert any(where in one for one in failed)


def test_an_optimizer_without_a_twin_is_held_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its learning rates and the norm of the gradient are compared all the same."""
    monkeypatch.setitem(OPTIMIZERS, "mine", OPTIMIZERS["sgd"])
    named: Any = SimpleNamespace(**vars(CONFIG) | {"name": "mine"})
    report = Report.of("float32", rows(named, dtype="float32"))
    assert [row.name for row in report.rows if row.compared] == [
        "learning_rate", "learning_rate, whole schedule", "gradient norm",
    ]  # fmt: skip
    assert report.passed and {row.verdict for row in report.rows} == {"ok", "held to nothing"}
    assert "all 3 comparisons within tolerance" in str(report) and "; 14 more are held to nothing" in str(report)
    monkeypatch.setitem(SCHEDULES, "mine", SCHEDULES["wsd"])
    named = SimpleNamespace(**vars(CONFIG) | {"schedule": "mine"})
    held = {row.name for row in rows(named, dtype="float32") if not row.compared}
    assert held == {"learning_rate", "learning_rate, whole schedule"}


@pytest.mark.parametrize("name", CASES)
def test_the_state_is_counted_exactly(name: str) -> None:
    config, train = replace(CONFIG, name=name), TrainConfig(batch_size=4)
    state = jax.eval_shape(partial(first_state, GPT(TINY), make_optimizer(config, 20)), jax.random.key(0))
    params, whole = (sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) for tree in (state.params, state))
    assert state_bytes(TINY, train, config) == whole + params


@pytest.mark.newest
@pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="elsewhere the state is computed once")
def test_muons_products_are_computed_once() -> None:
    """Although a step on a CPU makes two updates: nothing reads the directions of the second. 15 for all matrices of one shape."""
    optimizer = make_optimizer(replace(CONFIG, name="muon"), 20)
    params = shaped(PARAMS)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    compiled = jax.jit(partial(apply_gradients, optimizer)).lower(params, state, jnp.array(True)).compile()
    assert compiled.as_text().count(" dot(") == 2 * 15


def test_only_a_cpu_computes_the_state_after_the_parameters() -> None:
    optimizer, params = make_optimizer(CONFIG, 20), shaped(PARAMS)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    update = jax.jit(partial(apply_gradients, optimizer))
    for platform, barriers in (("cpu", 1), ("tpu", 0)):
        with compiling_for(platform):
            assert update.lower(params, state, jnp.array(True)).as_text().count("optimization_barrier") == barriers


@pytest.mark.parametrize("name", CASES)
def test_a_checkpoint_brings_back_the_same_bits(name: str, tmp_path: Path) -> None:
    """A step is a function of its state, so a resumed run goes on as without an interruption."""
    config = RunConfig(train=TrainConfig(steps=20), optimizer=replace(CONFIG, name=name))
    like = abstract_state(GPT(TINY), config)
    state = random_like(like._replace(step=jnp.zeros(())))._replace(step=jnp.asarray(7))
    state = jax.tree.map(lambda x, shape: jnp.asarray(x, shape.dtype), state, like)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(state, as_dict(config), "of no tokenizer")
    restored = Checkpoints(tmp_path / "checkpoints").restore(like)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(partial(np.testing.assert_array_equal, strict=True), restored, state)


@pytest.mark.usefixtures("quick_compilation")
def test_averaged_weights_are_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """val_loss is of the parameters; averaged_val_loss, samples, `evaluate` and `generate` are of the average."""
    config, run = write_config(tmp_path), tmp_path / "run"
    text = config.read_text().replace("steps = 12", "steps = 3").replace("dropout = 0.1", "")
    config.write_text(text.replace("[optimizer]", '[optimizer]\nname = "schedule_free_adamw"\nschedule = "constant"'))
    assert main(["train", str(config), "--out", str(run)]) == 0
    trained, evaluated, last = load_run(run, with_optimizer=True), load_run(run), lines(run)[-1]
    ids = prepare(trained.config, trained.tokenizer).validation_ids
    measure = evaluator(trained.model, trained.config)
    assert last["val_loss"] == measure(trained.params, ids)
    assert last["averaged_val_loss"] == measure(evaluated.params, ids) != last["val_loss"]
    rule, state = trained.config.optimizer, trained.opt_state[1]
    want = reference.optimizer.averaged(rule, state, jax.device_get(trained.params))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), evaluated.params, want)
    assert evaluated.opt_state is None
    assert f"validation loss {last['averaged_val_loss']:.4f}" in (run / "samples.txt").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "weights          schedule_free\n" in said and f"loss  {last['averaged_val_loss']:.4f} nats" in said
