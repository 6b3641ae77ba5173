"""The walk-through of train/tune/README.md with a tiny model: import, tune by adapters, merge, export, compare."""

from dataclasses import replace
from pathlib import Path

import pytest
from imported_runs import imported
from pretrained_files import LLAMA
from runs import lines

import train.tune
from train.cli import main

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
EXAMPLES = Path(train.tune.__file__).parent / "examples" / "about-jaxllm.jsonl"


def test_the_walk_through(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, in its order. The validation loss falls, and the folder in the end is the tuned model."""
    monkeypatch.chdir(tmp_path)
    imported(tmp_path / "base", replace(LLAMA, vocab_size=260, context_length=512))
    settings = ["train.batch_size=6", "optimizer.learning_rate=0.02", "eval.every=3", "eval.sample_tokens=4"]
    chosen = [part for setting in settings for part in ("--set", setting)]
    assert (
        main(["tune", "base", str(EXAMPLES), "--out", "about", "--epochs", "2", "--set", "lora.rank=4", *chosen]) == 0
    )
    out = capsys.readouterr().out
    assert "36 examples to train on" in out and "4 examples to validate on" in out
    losses = [line["val_loss"] for line in lines(tmp_path / "about") if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.05
    assert main(["merge", "about", "--out", "merged"]) == 0
    assert "adapters merged into" in capsys.readouterr().out
    assert main(["export", "merged", "--out", "folder", "--verify"]) == 0
    assert main(["export", "about", "--out", "peft", "--adapter"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "about"]) == 0
    assert f"validation loss  {losses[-1]:.4f}" in capsys.readouterr().out
    texts = []
    for run in ("about", "merged"):
        assert main(["generate", run, "--chat", "--prompt", "hi", "--temperature", "0", "--max-new-tokens", "8"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
