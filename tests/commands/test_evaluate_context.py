"""What the context is worth: the loss by position and by context length, beside the reference and the whole loss."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, imported
from models import TINY, random_gpt

import train.commands.evaluate
from jaxllm import reference
from jaxllm.gpt import GPT
from jaxllm.pretrained.chat import ChatFormat
from train.cli import main
from train.commands.evaluate_context import context_lengths, figures, losses_by_context, table
from train.config import RunConfig, TrainConfig
from train.evaluate import evaluator

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
SMALL = replace(TINY, context_length=3, n_layers=1)
IDS = np.random.default_rng(0).integers(17, size=24)


def reference_windows(params: Any, length: int, begin: int | None) -> list[np.ndarray]:
    """By window, the losses of its tokens by the NumPy reference."""
    targets = IDS if begin is not None else IDS[1:]
    rows = []
    for start in range(0, len(targets), length):
        window = targets[start : start + length]
        first = IDS[start] if begin is None else begin
        logits = reference.gpt.forward(SMALL, jax.device_get(params), np.array([[first, *window[:-1]]]))
        rows.append(reference.loss.token_losses(logits, window[None])[0])
    return rows


@pytest.mark.parametrize("begin", [None, 3])
def test_losses_by_position_and_length_are_those_of_the_reference(begin: int | None) -> None:
    """Also of the last window, which is shorter; and over all positions it is the loss that `evaluate` prints."""
    model, params = random_gpt(SMALL)
    losses = losses_by_context(model, params, IDS, 2, begin)
    assert list(losses) == [1, 2, 3]
    for length, got in losses.items():
        rows = reference_windows(params, length, begin)
        assert got.loss == pytest.approx(np.concatenate(rows).mean(), rel=1e-5)
        for t in range(length):
            here = np.array([row[t] for row in rows if len(row) > t])
            assert got.counts[t] == len(here) and got.means[t] == pytest.approx(here.mean(), rel=1e-5)
            assert got.errors[t] == pytest.approx(here.std(ddof=1) / np.sqrt(len(here)), rel=1e-4)
    whole = evaluator(model, RunConfig(train=TrainConfig(batch_size=2)), begin=begin)(params, IDS)
    assert losses[3].loss == pytest.approx(whole, rel=1e-6)
    assert losses[3].between(2, 3) == pytest.approx(np.average(losses[3].means[1:], weights=losses[3].counts[1:]))


def test_targets_that_the_model_sees_are_left_out() -> None:
    """The last target of a window is not in it, however short the window, so that it counts."""
    model, params = random_gpt(replace(SMALL, visible=lambda t, s, a, b: (s <= t) | (s < 2)))
    losses = losses_by_context(model, params, IDS, 2)
    assert [losses[length].counts.tolist() for length in (1, 2, 3)] == [[23], [0, 11], [0, 8, 7]]
    whole = evaluator(model, RunConfig(train=TrainConfig(batch_size=2)))(params, IDS)
    assert losses[3].loss == pytest.approx(whole, rel=1e-6)
    causal = losses_by_context(GPT(SMALL), params, IDS, 2)
    assert losses[1].loss == pytest.approx(causal[1].loss, rel=1e-6)
    assert table(losses).splitlines()[1].split() == ["1", f"{losses[1].loss:.4f}", "-", "-", "at", "1"]
    written = figures(losses)
    assert [row["loss"] is None for row in written["by_context"]] == [False, False, False]
    assert written["by_position"][0] == {"tokens_read": 1, "tokens": 0, "loss": None, "standard_error": None}


def test_the_command_prints_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, text = imported(tmp_path / "run", replace(CONFIG, context_length=4)), tmp_path / "text.txt"
    text.write_text("0123456789" * 3)
    out, numbers = tmp_path / "context.png", tmp_path / "context.json"
    assert main(["evaluate", str(run), "--data", str(text), "--context", str(out), "--json", str(numbers)]) == 0
    printed = capsys.readouterr().out
    whole = printed.split("validation loss")[1].split()[0]
    rows = [line.split() for line in printed.split("\n\n")[1].splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "4"] and rows[-1][1] == whole
    assert float(rows[1][2]) == pytest.approx(float(rows[0][1]) - float(rows[1][1]), abs=2e-4)
    assert out.read_bytes().startswith(b"\x89PNG")
    written = json.loads(numbers.read_text())
    assert [row["tokens"] for row in written["by_context"]] == [30] * 3
    assert sum(row["tokens"] for row in written["by_position"]) == 30
    assert f"{written['by_context'][-1]['loss']:.4f}" == whole


@pytest.mark.parametrize(
    ("context_length", "options", "says"),
    [
        (8, ["--context", "a.txt"], "must end in .png or .svg or .pdf"),
        (8, ["--context", "no/a.png"], "there is no folder no"),
        (8, ["--json", "a.json"], "is for the figures of --context or --choices; give one"),
        (8, ["--context", "a.png", "--json", "a.toml"], "must end in .json"),
        (1, ["--context", "a.png"], "needs a model.context_length of at least 2, but it is 1."),
        (9, ["--context", "a.png"], "18 tokens to predict, but there are 17; give more text with --data."),
    ],
)
def test_wrong_input_is_one_sentence_before_anything_is_computed(
    context_length: int, options: list[str], says: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.commands.evaluate, "evaluator", None)
    imported(Path("run"), replace(CONFIG, context_length=context_length), ChatFormat())
    Path("text.txt").write_text("x" * 18)
    assert main(["evaluate", "run", "--data", "text.txt", *options]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_longest_context_is_the_last() -> None:
    assert context_lengths(2) == [1, 2] and context_lengths(8) == [1, 2, 4, 8] and context_lengths(9)[-2:] == [8, 9]
