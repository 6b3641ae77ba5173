"""Every command escapes characters that the terminal or pipe cannot encode."""

import io
import os
import sys
from pathlib import Path

import pytest
from runs import write_config

from train.cli import main

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

TEXT = "→ ü東 " * 60  # cp1252 has only the ü
NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("output")
    config = write_config(folder)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    assert main(["train", str(config), "--out", str(folder / "rün"), "--set", "train.steps=3"]) == 0
    return folder / "rün"


def written(monkeypatch: pytest.MonkeyPatch, words: list[str], encoding: str, errors: str = "strict") -> bytes:
    """What a command writes to a standard output with that encoding."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(words) == 0
    stream.flush()
    return stream.buffer.getvalue()


COMMANDS = {
    "train --resume --set train.steps={more} --out {run}": "picture {run}{slash}loss.png, samples",
    "train --resume --out {run}": "{run} has all its",
    "generate {run} --prompt 東ü --max-new-tokens 2": "東ü",
    "inspect {run} --prompt →東": "the last of them [東]",
    "tokenizer show {run}": "[東]",
    "tokenizer show {run} --text ü東": "ü|東",
    "attention {run} --prompt →東 --out {out}/→.png": "→.png: 2 tokens",
    "tokenizer train {text} --kind char --out {out}/東.json": "東.json: char tokenizer with 4 ids",
    "export {run} --out {out}/東": "東",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(("encoding", "more"), [("ascii", 4), ("cp1252", 5)])
def test_a_character_that_cannot_be_encoded_is_escaped(
    command: str, encoding: str, more: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"run": str(run), "out": str(tmp_path), "text": str(run.parent / "text.txt"), "more": more, "slash": "/"}
    said = written(monkeypatch, command.format(**given).split(), encoding)
    want = COMMANDS[command].format(**given)
    assert want.encode(encoding, "backslashreplace") in said


def test_a_character_that_can_be_encoded_is_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["tokenizer", "show", str(run), "--text", "ü東"]
    assert written(monkeypatch, words, "utf-8").startswith("ü|東\n".encode())
    assert written(monkeypatch, words, "ascii", "replace").startswith(b"?|?\n")  # the chosen error handler stays


@pytest.mark.skipif(sys.platform != "linux", reason="names of files that are any bytes")
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_not_utf8_is_printed(
    run: Path, encoding: str, errors: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"{NOT_UTF8}東.json"
    words = ["tokenizer", "train", str(run.parent / "text.txt"), "--kind", "char", "--out", str(out)]
    said = written(monkeypatch, words, encoding, errors)
    name = "caf\\udce9東.json: char tokenizer".encode(encoding, "backslashreplace")
    assert name in said or name.replace(b"\\udce9", b"\xe9") in said
    assert out.exists()
