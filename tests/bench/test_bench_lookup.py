"""`jaxllm bench generate RUN --lookup`: a run's model with and without drafted tokens, on a tiny model."""

import json
from pathlib import Path

import numpy as np
import pytest
from imported_runs import CONFIG, TOKENIZER, imported

import train.bench.lookup
from jaxllm import InputError
from jaxllm.fast.generate import Generation
from train.bench.departures import departures
from train.bench.lookup import TEXTS, passages
from train.cli import main

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

BENCH = ["bench", "generate", "run", "--prompt-tokens", "12", "--new-tokens", "20", "--rounds", "2"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, and short texts."""
    monkeypatch.chdir(tmp_path)
    imported(tmp_path / "run")
    for name in TEXTS:
        monkeypatch.setitem(TEXTS, name, lambda: "".join(f"{i} of some lines\n" for i in range(99)))
    return tmp_path


def test_a_row_for_each_text_and_number_of_drafts(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*BENCH, "--lookup", "2", "5", "--json", "bench.json", "--weights", "int8", "--batch-size", "2"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    rows = saved["rows"]
    assert [(row["text"], row["lookup"]) for row in rows] == [("code", 2), ("code", 5), ("prose", 2), ("prose", 5)]
    for row in rows:
        assert row["tokens"] == "same" and row["parted"] == [] and row["rounds"] == 2
        assert 1 <= row["tokens_per_reading"] <= row["lookup"] + 1
        assert row["ratio_spread"][0] <= row["ratio"] <= row["ratio_spread"][1]
        assert row["tokens_per_s"] > 0 < row["plain_tokens_per_s"]
    assert rows[0]["plain_tokens_per_s"] == rows[1]["plain_tokens_per_s"]  # one side, beside which both are
    assert rows[1]["tokens_per_reading"] > 1.5
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in lines[2:6]] == [
        [row["text"], "2", "12", str(row["lookup"])] for row in rows
    ]  # fmt: skip
    assert max(map(len, lines)) <= 100


def test_other_tokens_are_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A side that writes another token with drafts than without."""

    def wrong(generation: Generation) -> np.ndarray:
        tokens = Generation.tokens(generation).copy()
        tokens[:, 3] = (tokens[:, 3] + bool(generation.plan.lookup)) % 258
        return tokens

    class Wrong(Generation):
        tokens = wrong

    start = train.bench.lookup.start_generation
    monkeypatch.setattr(train.bench.lookup, "start_generation", lambda *rest: Wrong(*start(*rest)))
    assert main([*BENCH, "--lookup", "2"]) == 1
    assert capsys.readouterr().out.count("differ") == 2


def test_where_rows_part() -> None:
    prompts, ours = np.array([[1, 2], [3, 4], [5, 6]]), np.array([[7, 8, 9], [7, 8, 9], [7, 8, 9]])
    theirs = np.array([[7, 8, 9], [7, 5, 9], [0, 8, 0]])
    read: list[list[int]] = []

    def logits(text: np.ndarray) -> np.ndarray:
        read.append(text[0].tolist())
        return np.arange(10.0)[None] ** 2

    assert departures(logits, prompts, ours, theirs) == [
        {"row": 1, "token": 1, "gap": 64.0 - 25.0}, {"row": 2, "token": 0, "gap": 49.0}
    ]  # fmt: skip
    assert read == [[3, 4, 7], [5, 6]]


def test_passages_lie_evenly_and_begin_a_line() -> None:
    text = "".join(f"line {i}\n" for i in range(100))
    ids = passages(TOKENIZER, text, 3, 6, 256)
    assert ids[:, 0].tolist() == [256] * 3
    assert [TOKENIZER.decode(row[1:].tolist()) for row in ids] == ["line ", "line ", "line "]
    with pytest.raises(InputError, match="--prompt-tokens is 900, but a passage has only .* tokens; give fewer"):
        passages(TOKENIZER, text, 3, 900, 256)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--lookup 4 16", "--lookup is 16, but it must be from 1 to 15."),
        ("--lookup 4 --against nanogpt --peer .", "--lookup compares a run with itself; leave --against"),
        ("--lookup 4 --set model.n_layers=2", "--lookup compares a run with itself; leave --against"),
        ("--lookup 4 --prompt-tokens 65", f"--prompt-tokens is 65, but it must be from 1 to {CONFIG.context_length}."),
    ],
)
def test_wrong_input(words: str, said: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "model.py").write_text("")
    assert main([*BENCH, *words.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
