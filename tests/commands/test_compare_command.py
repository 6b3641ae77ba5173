"""The command `jaxllm compare`: on a config, on a trained run, beyond tolerance, and with wrong input."""

import json
from pathlib import Path

import pytest

import jaxllm.layers
import train.commands.compare
from jaxllm.layers import layer_norm
from train.cli import main
from train.config import ModelConfig, RunConfig

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

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
