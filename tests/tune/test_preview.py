"""The examples that are printed before a run."""

import sys
from pathlib import Path

import numpy as np
import pytest
from examples import BYTES, chat_format, write_examples

from train.pieces import COLOURS
from train.tune.data import read_tune_data
from train.tune.preview import preview_pieces
from train.tune.rendered import Rendered

LINES = [{"prompt": "Why?", "answer": "So\n."}] * 4


def test_learned_pieces_stand_in_brackets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_examples(tmp_path / "x.jsonl", LINES)
    read_tune_data(source, "instruct", BYTES, chat_format(), 64).preview(2)
    text = r"<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n[So\n.<|im_end|>]"
    assert capsys.readouterr().out == f"line 1 of {source}:\n{text}\nline 2 of {source}:\n{text}\n"


def test_pairs_and_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [{"prompt": "Q", "chosen": "yes", "rejected": "no"}] * 2
    source = write_examples(tmp_path / "x.jsonl", pairs)
    read_tune_data(source, "prefer", BYTES, chat_format(None), 64).preview()
    assert capsys.readouterr().out == (
        f"line 1 of {source}, chosen:\n<s>Q[yes<|im_end|>]\nline 1 of {source}, rejected:\n<s>Q[no<|im_end|>]\n"
    )
    write_examples(tmp_path / "x.jsonl", [{"text": "ab", "label": "x\n"}, {"text": "c", "label": "y"}] * 2)
    read_tune_data(source, "classify", BYTES, None, 64).preview(1)
    assert capsys.readouterr().out == f"line 1 of {source}:\nab [x\\n]\n"


def test_on_a_terminal_what_is_learned_is_coloured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = read_tune_data(write_examples(tmp_path / "x.jsonl", LINES), "instruct", BYTES, chat_format(None), 64)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    data.preview(1)
    printed = capsys.readouterr().out.splitlines()[1]
    before, _, learned = printed.partition("\x1b[")
    assert before == "<s>Why?" and learned.partition("m")[2] == "So\\n.<|im_end|>\x1b[0m"
    assert list(preview_pieces(data.train.examples[0][0], BYTES)) == [("<s>Why?", None), ("So\\n.<|im_end|>", 0)]
    assert COLOURS[0]


def test_long_pieces_are_shortened_and_bytes_escaped() -> None:
    ids = np.array([*b"a" * 1000, 0xFF, *b"\x1b["], np.int32)
    ((text, colour),) = preview_pieces(Rendered("", ids, np.zeros(len(ids), bool)), BYTES)
    assert len(text) == 400 and text.startswith("aaa") and text.endswith(r"aaa\xff\x1b[") and colour is None
