"""A run that goes on from an adapter in PEFT's layout, by `init.adapter`."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from adapters import shapes_of
from flax.traverse_util import flatten_dict
from imported_runs import CONFIG, imported
from models import random_like

from jaxllm import lora
from jaxllm.pretrained.peft import write_adapter
from train.cli import main
from train.runs.load import load_run
from train.tune.base import fingerprint

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
MODEL = replace(CONFIG, activation="swiglu", use_bias=False, n_layers=2)


def begin(folder: Path, adapter: Path, *more: str) -> int:
    """A run on the base in `folder` that goes on from an adapter; the learning rate leaves it as it is."""
    (folder / "text.txt").write_text("the cat sat on the mat. " * 20)
    settings = (
        f"init.adapter={adapter}", "train.window=16", "train.steps=1", "optimizer.warmup_steps=0",
        "optimizer.learning_rate=1e-12", "optimizer.min_learning_rate=1e-12", "optimizer.weight_decay=0.0"
    )  # fmt: skip
    words = ["tune", str(folder / "base"), str(folder / "text.txt"), "--out", str(folder / "run"), "--kind", "pretrain"]
    return main([*words, *(word for one in (*settings, *more) for word in ("--set", one))])


def of_base(folder: Path) -> str:
    """The fingerprint of the base in `folder`."""
    return fingerprint(load_run(folder / "base").params)


def test_a_run_goes_on_from_an_adapter(tmp_path: Path) -> None:
    """Of two ranks, in one of two blocks: the run computes what the adapter computes, and is loaded again."""
    imported(tmp_path / "base", MODEL)
    adapter = lora.init_adapter(jax.random.key(0), shapes_of(MODEL, "block_0/mlp/(up|gate)"), 1)
    adapter["block_0"]["mlp"] |= lora.init_adapter(
        jax.random.key(0), {"down/kernel": (MODEL.hidden_dim, MODEL.d_model)}, 2
    )
    adapter = random_like(adapter, seed=1)
    write_adapter(
        tmp_path / "peft", MODEL, adapter, 2, 3.0, 0.0, "base", fingerprint(load_run(tmp_path / "base").params), {}
    )
    assert begin(tmp_path, tmp_path / "peft") == 0
    run = load_run(tmp_path / "run")
    want = flatten_dict(lora.merge(lora.attach(load_run(tmp_path / "base").params, adapter, 1.5)))
    for path, leaf in flatten_dict(run.params).items():
        np.testing.assert_allclose(leaf, want[path], rtol=0, atol=1e-6, err_msg="/".join(path))


def test_the_optimizer_begins_with_the_adapter(tmp_path: Path) -> None:
    """One that keeps a copy of the parameters, as schedule-free optimizers do, has no copy of other ones."""
    imported(tmp_path / "base", MODEL)
    adapter = random_like(lora.init_adapter(jax.random.key(0), shapes_of(MODEL, "mlp/up"), 1), seed=1)
    write_adapter(tmp_path / "peft", MODEL, adapter, 1, 3.0, 0.0, None, of_base(tmp_path), {})
    averaged = ("optimizer.name=schedule_free_adamw", "optimizer.schedule=constant", "eval.weights=schedule_free")
    assert begin(tmp_path, tmp_path / "peft", *averaged) == 0
    run = load_run(tmp_path / "run")
    want = flatten_dict(lora.merge(lora.attach(load_run(tmp_path / "base").params, adapter, 3.0)))
    for path, leaf in flatten_dict(run.params).items():
        np.testing.assert_allclose(leaf, want[path], rtol=0, atol=1e-6, err_msg="/".join(path))


def test_parameters_that_would_not_change_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before there is a run: a folder that holds some would have to be removed by hand."""
    imported(tmp_path / "base", MODEL)
    adapter = lora.init_adapter(jax.random.key(0), shapes_of(MODEL, "mlp/up"), 1)
    full = {"token_embedding": load_run(tmp_path / "base").params["token_embedding"]}
    write_adapter(tmp_path / "peft", MODEL, adapter, 1, 3.0, 0.0, None, of_base(tmp_path), full)
    assert begin(tmp_path, tmp_path / "peft") == 2
    assert "holds token_embedding/table, which does not change in this run" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert begin(tmp_path, tmp_path / "peft", "tune.train=token_embedding", 'init.add_tokens=["<a>"]') == 2
    assert "without the tokens of init.add_tokens" in capsys.readouterr().err


def test_an_adapter_of_another_base_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path / "base", MODEL)
    adapter = lora.init_adapter(jax.random.key(0), shapes_of(MODEL, "mlp/up"), 1)
    write_adapter(tmp_path / "peft", MODEL, adapter, 1, 3.0, 0.0, "base", "ab" * 32, {})
    assert begin(tmp_path, tmp_path / "peft") == 2
    assert "is an adapter of weights with the fingerprint abababababab, but" in capsys.readouterr().err
