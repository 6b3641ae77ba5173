"""Model, gradients and optimizer step side by side, and the command `jaxllm compare`: what is wrong is found and named."""

import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models import TINY, random_like, random_tokens

import jaxllm.layers
import train.commands.compare
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
from train.cli import main
from train.config import ModelConfig, RunConfig
from train.step import learning_rate_schedule, make_optimizer


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


def test_arithmetic_is_put_back() -> None:
    before = jax.config.jax_enable_x64
    with arithmetic("float64"):
        assert jnp.ones(()).dtype == "float64"
    assert jax.config.jax_enable_x64 == before and jnp.ones(()).dtype == "float32"


def test_random_parameters_hide_nothing() -> None:
    params = random_parameters(GPT(replace(TINY, tie_embeddings=False)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        assert leaf.dtype == "float32" and len(np.unique(leaf)) == leaf.size, path


TINY_RUN = RunConfig(model=ModelConfig(vocab_size=19, context_length=8, d_model=8, n_layers=1, n_heads=2))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder to work in, and `jaxllm compare` without a subject on a model of the tests' size."""
    monkeypatch.setattr(train.commands.compare, "SMALL", TINY_RUN)
    monkeypatch.setattr(train.commands.compare, "STAND_IN", 19)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.newest
def test_the_command(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--json", "out.json", "--out", "error.png"]) == 0
    text = capsys.readouterr().out
    for stage in ("forward", "backward", "gradient", "optimizer step: update", "optimizer step: second moment"):
        assert f"\n{stage}\n" in text
    assert "1 x 8 tokens, float32 on cpu" in text and "comparisons within tolerance" in text
    saved = json.loads((tiny / "out.json").read_text())
    assert saved["passed"] and saved["dtype"] == "float32" and saved["model"]["d_model"] == 8
    assert {"stage", "name", "shape", "max_abs", "relative", "ulp", "tolerance", "passed"} <= saved["rows"][0].keys()
    assert (tiny / "error.png").read_bytes()[:4] == b"\x89PNG"
    assert main(["compare", "--dtype", "float64", "--batch-size", "2", "--length", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["shape"] == [2, 3] and max(r["relative"] for r in printed["rows"]) < 1e-12


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
        config, steps = TINY_RUN.optimizer, TINY_RUN.train.steps
        faulty = replace(config, **change)
        optimizer, schedule = make_optimizer(faulty, steps), learning_rate_schedule(faulty, steps)
        return compare_optimizer(optimizer, schedule, config, steps, 3, params, gradients)

    assert all(row.passed for row in rows())
    failed = [row for row in rows(**fault) if not row.passed]
    assert any(stage in f"{r.stage} {r.name}" for r in failed)


@pytest.mark.newest
def test_beyond_tolerance_exits_with_1(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(jaxllm.layers.NORMS, "layer_norm", lambda *x: layer_norm(*x[:3], 1e-2))
    assert main(["compare", "--json", "out.json"]) == 1
    text = capsys.readouterr().out
    assert "comparisons are beyond tolerance; look at forward block_0/norm_1 first" in text
    assert text.count("<- the error jumps here") == 1
    saved = json.loads((tiny / "out.json").read_text())
    assert not saved["passed"] and not any(r["stage"].startswith("optimizer") for r in saved["rows"] if not r["passed"])


@pytest.mark.parametrize(("arguments", "message"), [
    (["--length", "9"], "--length is 9, more than model.context_length = 8"),
    (["--length", "0"], "--length is 0, but it must be at least 1"),
    (["--batch-size", "-1"], "--batch-size is -1, but it must be from 1 to 1024"),
    (["--batch-size", "99999999999"], "--batch-size is 99999999999, but it must be from 1 to 1024"),
    (["--json", "config.toml"], "--json config.toml: the name of the file must end in .json"),
    (["--out", "error.txt"], "--out error.txt: the name of the file must end in .png or .svg or .pdf"),
    (["--out", "-"], "--out -: the name of the file must end in"),
    (["--out", "folder.png"], "--out folder.png: folder.png is a folder"),
    (["absent.toml"], "cannot read the config absent.toml"),
    (["."], "no run folder: it has no config.toml"),
    (["--json", "absent/out.json"], "--json absent/out.json: there is no folder absent"),
])  # fmt: skip
def test_wrong_input(arguments: list[str], message: str, tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny / "folder.png").mkdir()
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert [p.name for p in tiny.rglob("*")] == ["folder.png"]


@pytest.mark.newest
def test_a_trained_run(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own parameters, moments and text; the folder stays as it is."""
    (tiny / "text.txt").write_text("a rose is a rose is a rose. " * 30)
    (tiny / "run.toml").write_text(
        '[data]\nsource = "text.txt"\n[model]\ncontext_length = 8\nd_model = 8\nn_layers = 1\nn_heads = 2\n'
        "[train]\nsteps = 3\nbatch_size = 4\n[optimizer]\nwarmup_steps = 1\n"
    )
    assert main(["compare", "run.toml"]) == 0
    assert "run.toml, random weights, 1 x 8 tokens" in capsys.readouterr().out
    assert main(["train", "run.toml"]) == 0
    before = {p: p.read_bytes() for p in (tiny / "runs").rglob("*") if p.is_file()}
    for option in (["--json", "runs/run/tokenizer.json"], ["--out", "runs/run/loss.png"]):
        assert main(["compare", "runs/run", *option]) == 2
        assert "runs/run is a run folder, whose files stay as they are" in capsys.readouterr().err
    assert main(["compare", "runs/run", "--batch-size", "3"]) == 0
    assert "runs/run, step 3, 3 x 8 tokens" in capsys.readouterr().out
    assert before == {p: p.read_bytes() for p in (tiny / "runs").rglob("*") if p.is_file()}
