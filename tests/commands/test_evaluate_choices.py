"""`jaxllm evaluate --choices`: what it prints and writes, beside the reference."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, imported

import train.commands.evaluate
from jaxllm import reference
from jaxllm.pretrained.chat import ChatFormat
from train.cli import main
from train.runs.imported_weights import write_weights
from train.runs.load import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
QUESTIONS = [
    {"query": "The sky is", "choices": [" blue.", " a long river."], "answer": 0},
    {"query": "A, B or C?", "choices": [" A", " B", " C"], "answer": 2},
    {"query": "x" * 40, "choices": ["yyyy", "z"], "answer": 1},
    {"query": "", "choices": ["b", "cc"], "answer": 1},
]


def run_with(folder: Path, context_length: int = 24) -> str:
    (folder / "q.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in QUESTIONS))
    return str(imported(folder / "run", replace(CONFIG, context_length=context_length)))


def by_reference(run: str) -> list[list[float]]:
    """The log-probability of each choice, by the NumPy model on one text at a time."""
    trained = load_run(run)
    params, config = jax.device_get(trained.params), trained.model.config

    def of(query: str, choice: str) -> float:
        ids, n = [256, *query.encode(), *choice.encode()][-config.context_length - 1 :], len(choice)
        logits = reference.gpt.forward(config, params, np.array([ids[:-1]]))[0, -n:]
        return -float(reference.loss.token_losses(logits, np.array(ids[-n:])).sum())

    return [[of(one["query"], choice) for choice in one["choices"]] for one in QUESTIONS]  # type: ignore[arg-type]


def test_the_command_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = run_with(tmp_path), tmp_path / "o.json"
    assert main(["evaluate", run, "--choices", str(tmp_path / "q.jsonl"), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    head, table = printed.split("\n\n")
    assert head.splitlines() == [
        "step             0",
        "questions        4",
        "choices          2 to 3",
        f"chance           {(3 / 2 + 1 / 3) / 4:.4f}",
        "queries cut      1, at the left, to fit into the context of 24 tokens",
    ]
    want, written = by_reference(run), json.loads(out.read_text())
    for one, log_probs, asked in zip(written["by_question"], want, QUESTIONS, strict=True):
        np.testing.assert_allclose(one["log_probs"], log_probs, rtol=1e-5)
        lengths = [len(choice.strip()) for choice in asked["choices"]]  # type: ignore[attr-defined]
        assert one["chosen"]["sum"] == int(np.argmax(log_probs)) and one["answer"] == asked["answer"]
        assert one["chosen"]["per byte"] == int(np.argmax(np.array(log_probs) / lengths))
    assert [one["tokens_cut"] for one in written["by_question"]] == [0, 0, 20, 0]
    right = np.mean([np.argmax(w) == one["answer"] for w, one in zip(want, QUESTIONS, strict=True)])
    assert written["accuracy"]["sum"] == right and written["questions"] == 4
    rows = {line[:15].strip(): line[15:].split() for line in table.splitlines()}
    assert rows["sum"] == [f"{right:.4f}", f"{written['standard_error']['sum']:.4f}", "acc"]
    assert [rows[name][-1] for name in ("per byte", "per character", "per token")] == ["acc_bytes", "acc_norm", "-"]


def test_one_question_has_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, file, out = run_with(tmp_path), tmp_path / "one.jsonl", tmp_path / "o.json"
    file.write_text(json.dumps(QUESTIONS[1]))
    assert main(["evaluate", run, "--choices", str(file), "--json", str(out), "--weights", "bfloat16"]) == 0
    head, table = capsys.readouterr().out.split("\n\n")
    assert "choices          3\n" in head and "queries cut" not in head
    assert table.splitlines()[1].split()[2] == "-" and json.loads(out.read_text())["standard_error"]["sum"] is None


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--choices", "q.jsonl", "--data", "q.jsonl"], "--data is for the loss of a text, which --choices does not"),
        (["--choices", "q.jsonl", "--context", "a.png"], "--context is for the loss of a text"),
        (["--choices", "q.jsonl", "--field", "text"], "--field is for the loss of a text"),
        (["--choices", "q.jsonl", "--json", "a.toml"], "must end in .json"),
        (["--choices", "none.jsonl"], "cannot read none.jsonl"),
        (["--choices", "bad.jsonl"], "line 1 of bad.jsonl has no 'query'"),
        (["--json", "a.json"], "is for the figures of --context or --choices; give one of them"),
    ],
)
def test_wrong_input_is_one_sentence(
    options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.commands.evaluate, "load_run", None)  # before anything is loaded
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTIONS[0]))
    (tmp_path / "bad.jsonl").write_text('{"question": "a"}')
    assert main(["evaluate", "run", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_choice_longer_than_the_context_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path, context_length=12)
    assert main(["evaluate", run, "--choices", str(tmp_path / "q.jsonl")]) == 2
    assert "q.jsonl: the choice ' a long river.' has 14 tokens after the query" in capsys.readouterr().err


def test_nan_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_with(tmp_path)
    params: Any = load_run(run).params
    params["norm_final"]["scale"] = params["norm_final"]["scale"] * np.nan
    write_weights(tmp_path / "run" / "weights.safetensors", params)
    assert main(["evaluate", run, "--choices", str(tmp_path / "q.jsonl")]) == 1
    assert "norm_final/scale holds NaN" in capsys.readouterr().err


def test_an_empty_query_needs_a_first_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The token that begins texts, for a model that wants none before others."""
    run_with(tmp_path)
    ChatFormat(bos_token="<s>").save(tmp_path / "run" / "pretrained.json")
    assert main(["evaluate", str(tmp_path / "run"), "--choices", str(tmp_path / "q.jsonl")]) == 0
