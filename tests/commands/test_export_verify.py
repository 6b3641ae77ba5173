"""`jaxllm export --verify`: a folder that another program reads wrongly is not left."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, imported

from jaxllm import GPTConfig, save_pretrained
from train.cli import main
from train.commands import export, export_verify
from train.commands.export_verify import random_tokens, relative_difference

LLAMA = replace(CONFIG, activation="swiglu", use_bias=False)  # which transformers has

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)


def export_command(tmp_path: Path) -> tuple[int, Path]:
    """The exit code of an export of a random run that is verified, and the folder."""
    run = tmp_path / "run"
    if not run.exists():
        imported(run, LLAMA)
    return main(["export", str(run), "--out", str(tmp_path / "out"), "--verify"]), tmp_path / "out"


@pytest.mark.newest
@pytest.mark.usefixtures("without_transformers")
def test_our_reader_computes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = export_command(tmp_path)
    assert code == 0 and (out / "model.safetensors").exists()
    verified = capsys.readouterr().out.splitlines()[1]
    assert verified.startswith("verified: jaxllm.load_pretrained (transformers is not installed) opens it, and")
    assert "128 random tokens within 0.0e+00" in verified


def test_transformers_computes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs the extra `peers`")
    pytest.importorskip("transformers", reason="needs the extra `peers`")
    code, out = export_command(tmp_path)
    assert code == 0 and (out / "model.safetensors").exists()
    assert capsys.readouterr().out.splitlines()[1].startswith("verified: transformers ")


def change_a_little(params: Any) -> Any:
    return jax.tree.map(lambda x: x * np.float32(1.001), params)


def make_infinite(params: Any) -> Any:
    """A scale that is finite, so that it is written, and logits that are not."""
    return params | {"norm_final": {"scale": np.full_like(params["norm_final"]["scale"], 3e38)}}


@pytest.mark.newest
@pytest.mark.usefixtures("without_transformers")
@pytest.mark.parametrize(("damage", "said"), [(change_a_little, " 7.6e-03 of"), (make_infinite, " nan of")])
def test_a_folder_of_other_weights_is_not_left(
    damage: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def saving(folder: Path, config: GPTConfig, params: Any) -> None:
        save_pretrained(folder, config, damage(params))

    monkeypatch.setattr(export, "save_pretrained", saving)
    code, out = export_command(tmp_path)
    errors = capsys.readouterr().err
    assert code == 1 and not out.exists()
    assert "differ from this model's by" in errors and said in errors and errors.count("\n") == 1


def test_tokens_of_one_document() -> None:
    config = GPTConfig(vocab_size=3, context_length=500, d_model=8, n_layers=1, n_heads=1, separator=1)
    tokens = random_tokens(config)
    assert tokens.shape == (export_verify.ROWS, export_verify.LENGTH)
    assert set(tokens.flat) == {0, 2}
    assert random_tokens(CONFIG).shape == (2, CONFIG.context_length)


def test_differences_are_relative_to_ours() -> None:
    ours = np.array([[1.0, -4.0]])
    assert relative_difference(ours + 0.5, ours) == 0.125
    assert np.isnan(relative_difference(ours[:, :1], ours))
    assert np.isnan(relative_difference(ours, np.array([[1.0, np.nan]])))
