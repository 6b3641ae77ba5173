"""`jaxllm data pairs`: each token of a text with its target under it."""

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from jaxllm.data import input_target_pairs
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from train.cli import main
from train.commands.data_pairs import LONGEST, WIDTH, count_pairs
from train.pieces import columns, cut

pytestmark = pytest.mark.newest
SENTENCE = "Please buy an apple and an orange"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(shlex.split(f"data pairs {command}")) == 0
    return capsys.readouterr().out.splitlines()


def rows(lines: list[str], name: str) -> list[list[str]]:
    """The tokens of the rows with this name."""
    return [line.split()[1:] for line in lines if line.split()[0] == name]


def test_targets_stand_under_their_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(f"'{SENTENCE}' --stride 2", capsys) == [
        "the text, by its words: 7 tokens; inputs of 4, each 2 tokens after the one before",
        "pair 1",
        "  input  Please buy an    apple",
        "  target buy    an  apple and",
        "pair 2",
        "  input  an    apple and an",
        "  target apple and   an  orange",
        "pairs shown: 2 of 2",
    ]


@pytest.mark.parametrize(("length", "stride", "top"), [(1, 1, 99), (3, 1, 2), (3, 2, 1), (2, 4, 99), (6, 9, 99)])
def test_they_are_the_pairs_of_training(length: int, stride: int, top: int, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ran(f"'{SENTENCE}' --context-length {length} --stride {stride} --top {top}", capsys)
    tok = WordTokenizer.train(SENTENCE)
    inputs, targets = input_target_pairs(tok.encode(SENTENCE), length, stride)
    for name, ids in (("input", inputs), ("target", targets)):
        assert rows(lines, name) == [[tok.decode([i]) for i in row] for row in ids.tolist()[:top]]
    assert lines[-1] == f"pairs shown: {min(top, len(inputs))} of {len(inputs)}"
    assert count_pairs(7, length, stride) == len(inputs)


def test_a_file_and_a_tokenizer(capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.txt").write_text("a b\tc\n")
    tok = CharTokenizer.train("a b\tc\n")
    tok.save("char.json")
    lines = ran("a.txt --tokenizer char.json --context-length 5", capsys)
    assert lines[0].startswith("a.txt, by char.json: 6 tokens; inputs of 5, each 1 token after the one before")
    assert rows(lines, "input") == [["a", "␣", "b", "\\t", "c"]]
    assert rows(lines, "target") == [["␣", "b", "\\t", "c", "\\n"]]
    Path("folder").mkdir()
    Path("folder", "b").write_text("the words of a file")
    assert rows(ran("folder/b", capsys), "target") == [["words", "of", "a", "file"]]


def test_bytes_and_control_characters_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    BPETokenizer([bytes([i]) for i in range(256)]).save("bytes.json")
    lines = ran("'é[red]\x1b[31m' --tokenizer bytes.json --context-length 11", capsys)
    assert rows(lines, "input") == [["\\xc3", "\\xa9", *"[red]", "\\x1b", *"[31"]]
    assert "\x1b" not in "".join(lines)


def test_long_inputs_are_lines_that_fit(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"word{'s' * (i % 7)}{i}" for i in range(60)] + ["x" * 500, "東" * 90, "e\u0301" * 45, "end"]
    lines = ran(f"'{' '.join(words)}' --context-length {len(words) - 1}", capsys)
    pairs = lines[2:-1]
    assert max(map(columns, lines)) <= WIDTH and len(pairs) > 10
    inputs = [token for line in pairs[::2] for token in line.removeprefix("  input ").split()]
    targets = [token for line in pairs[1::2] for token in line.removeprefix("  target ").split()]
    assert inputs == [cut(word, LONGEST) for word in words[:-1]] and targets == [
        cut(word, LONGEST) for word in words[1:]
    ]
    for above, below in zip(pairs[::2], pairs[1::2], strict=True):  # columns begin at the same place
        assert len(above.split()) == len(below.split()) + ("input" in above) - ("target" in below)


def test_a_wide_token_is_cut() -> None:
    assert cut("x" * 40, 40) == "x" * 40 and cut("x" * 41, 40) == "x" * 39 + "…"
    assert cut("東" * 20, 40) == "東" * 20 and cut("東" * 21, 40) == "東" * 19 + "…"
    assert cut("e\u0301" * 99, 9) == "e\u0301" * 4 + "e…" and len(cut("x" * 10**6, 40)) == 40


def test_a_token_has_one_colour_wherever_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_, **__: os.terminal_size((50, 24)))
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "50")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines = ran(f"'{SENTENCE}' --context-length 6", capsys)
    found = re.findall(r"\x1b\[30;(10\d)m([^\x1b]*)\x1b\[0m", "\n".join(lines))
    assert [word for _, word in found] == [
        *SENTENCE.split()[:6], *SENTENCE.split()[1:],
    ]  # fmt: skip
    assert len({word for _, word in found}) == len(set(found)) == len({colour for colour, _ in found}) == 6
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert plain[2].rstrip() == "  input  Please buy an    apple and an"


WRONG = {
    "'a b c d' --top 0": "--top is 0, but it must be at least 1.",
    "'a b c d' --stride 0": "context_length = 4 and stride = 0 must both be at least 1.",
    "'a b c d' --stride -2": "context_length = 4 and stride = -2 must both be at least 1.",
    "'a b c d e' --context-length 0": "context_length = 0 and stride = 1 must both be at least 1.",
    "'a b c d'": "the text has 4 tokens, but one window of context_length = 4 and its target need 5; use a longer text",
    "''": "the text holds no words",
    "' '": "the text holds no words",
    "'\udc80 b c d e'": "the text holds a lone surrogate",
    "missing.txt": "cannot read missing.txt: No such file or directory.",
    "folder": "cannot read folder: Is a directory.",
    "latin.txt": "latin.txt is not UTF-8",
    "'a b c d e' --tokenizer missing.json": "cannot read the tokenizer missing.json",
    f"'{'a' * 5000}'": "the text has 1 tokens",
    "'a\0b c'": "the text has 2 tokens",
}


@pytest.mark.parametrize("command", WRONG, ids=lambda command: command[:40].encode("ascii", "replace").decode())
def test_wrong_input_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("folder").mkdir()
    Path("latin.txt").write_bytes(b"caf\xe9")
    assert main(shlex.split(f"data pairs {command}")) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("jaxllm data: ") and printed.err.count("\n") == 1
    assert WRONG[command] in printed.err and not printed.out
