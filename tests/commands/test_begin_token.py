"""Evaluation and comparison of imported models: each window begins with the begin token that they were trained with."""

from pathlib import Path

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, imported

from jaxllm import reference
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers.sentencepiece import BYTES, SentencePieceTokenizer
from train.cli import main
from train.commands.compare import from_run
from train.evaluate import score
from train.runs.folder import RunFolder
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


def reference_losses(run: Path, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The loss of each target [B, T] by the NumPy reference."""
    loaded = load_run(run)
    logits = reference.gpt.forward(CONFIG, jax.device_get(loaded.params), inputs)
    logits -= logits.max(-1, keepdims=True)
    chosen = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - chosen


@pytest.mark.parametrize("prepared", [False, True])
def test_evaluation_begins_each_window_with_the_begin_token(
    prepared: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The begin token is not text, and every token of the text is predicted once."""
    run, text, data = imported(tmp_path / "run"), tmp_path / "text.txt", tmp_path / "data"
    text.write_text("0123456789" * 13)  # two windows and two tokens
    ids = np.frombuffer(text.read_bytes(), np.uint8).astype(np.int32)
    if prepared:
        tokenizer = str(RunFolder(run).tokenizer)
        assert main(["data", "prepare", str(text), "--tokenizer", tokenizer, "--out", str(data)]) == 0
        ids = ids[117:]  # the last tenth
    windows = [ids[start : start + 64] for start in range(0, len(ids), 64)]
    losses = [reference_losses(run, np.array([[256, *w[:-1]]]), w[None]) for w in windows]
    loss = np.concatenate(losses, 1).mean()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--data", str(data if prepared else text)]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    assert said["tokens"].strip() == str(len(ids))
    assert float(said["validation loss"].split()[0]) == pytest.approx(loss, abs=1e-4)
    assert float(said["bits per byte"]) == pytest.approx(loss / np.log(2), abs=1e-4)
    assert said["each window"].strip() == "begins with <s>"
    if prepared:
        assert main(["evaluate", str(run), "--data", str(data), "--field", "text"]) == 2
        assert "is prepared data, which holds tokens; leave it out." in capsys.readouterr().err


def test_evaluation_without_a_begin_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Windows begin with the text, and its first token is not predicted."""
    run, text = imported(tmp_path / "run", chat=ChatFormat()), tmp_path / "text.txt"
    text.write_text("0123456789")
    ids = np.array([[*b"0123456789"]], np.int32)
    loss = reference_losses(run, ids[:, :-1], ids[:, 1:]).mean()
    assert main(["evaluate", str(run), "--data", str(text)]) == 0
    said = capsys.readouterr().out
    assert f"validation loss  {loss:.4f}" in said and "tokens           9\n" in said
    assert "each window      begins with the text itself\n" in said


def test_one_token_is_enough_after_a_begin_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.txt").write_text("a")
    for chat, code in ((None, 0), (ChatFormat(), 2)):
        run = imported(tmp_path / f"run{code}", chat=chat)
        assert main(["evaluate", str(run), "--data", str(tmp_path / "one.txt")]) == code
    assert "has 1 tokens, but the loss needs a token to predict from" in capsys.readouterr().err


def test_the_space_before_a_text_is_not_counted() -> None:
    tokenizer = SentencePieceTokenizer([*BYTES, "\u2581", "o", "\u2581on", "e", "<s>"], [], ["<s>"])
    ids = np.array([258, 259, 256, 257])  # "one o"
    assert tokenizer.decode(ids) == "one o"
    assert score(1.0, ids, tokenizer, begin=260).n_bytes == 5
    assert score(1.0, ids, tokenizer).n_bytes == 3


def test_a_comparison_begins_each_window_alike(tmp_path: Path) -> None:
    subject = from_run(str(imported(tmp_path / "run")), None, 2, 8)
    np.testing.assert_array_equal(subject.inputs[:, 0], 256)
    np.testing.assert_array_equal(subject.inputs[:, 1:], subject.targets[:, :-1])
    bare = from_run(str(imported(tmp_path / "bare", chat=ChatFormat())), None, 2, 8)
    np.testing.assert_array_equal(bare.inputs.ravel()[1:], bare.targets.ravel()[:-1])


def test_an_empty_field_is_a_name_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, text = imported(tmp_path / "run"), tmp_path / "text.jsonl"
    text.write_text('{"text": "0123456789"}\n')
    assert main(["evaluate", str(run), "--data", str(text), "--field", ""]) == 2
    assert "has no text under ''" in capsys.readouterr().err
