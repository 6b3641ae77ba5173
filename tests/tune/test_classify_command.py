"""`jaxllm classify`: the labels of a text, the most likely first."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imported_runs import CONFIG, imported

from jaxllm.pretrained.chat import ChatFormat
from jaxllm.reference import gpt as reference
from train.cli import main
from train.commands.classify import label_probabilities, table
from train.runs.load import load_run
from train.tune.config import TuneConfig

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
CLASSIFIER = replace(CONFIG, n_classes=3)
LABELS = ("ham", "spam\n", "漢字")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """A run as `jaxllm merge` leaves it."""
    return imported(tmp_path / "run", CLASSIFIER, ChatFormat(begin_token=256), TuneConfig("classify", labels=LABELS))


def test_probabilities_are_those_at_the_last_token(classifier: Path) -> None:
    run = load_run(classifier)
    logits = reference.forward(CLASSIFIER, run.params, np.array([[256, *b"hi"]]))[0, -1]
    want = np.exp(logits - logits.max())
    np.testing.assert_allclose(label_probabilities(run, "hi"), want / want.sum(), rtol=1e-4)


def test_labels_are_printed(classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(classifier), "--text", "hi"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in printed) == sorted(["ham", "spam\\n", "漢字"])
    shares = [float(line.split()[1]) for line in printed]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=2e-4)


def test_a_table_is_aligned() -> None:
    assert table(LABELS, np.array([0.25, 0.25, 0.5])) == ["漢字    0.5000", "ham     0.2500", "spam\\n  0.2500"]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "is empty"), ("x" * 64, "65 tokens, more than the model's context of 64"), ("x" * 10**8, "characters")],
)
def test_wrong_texts(text: str, said: str, classifier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(classifier), "--text", text]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", str(imported(tmp_path / "run")), "--text", "hi"]) == 2
    assert "was not tuned to classify" in capsys.readouterr().err
