"""The output of a command inside its own source does not change what the next command reads."""

import json
import shlex
import tomllib
from pathlib import Path

import pytest
from runs import TINY, lines

from jaxllm.data import shard_writer
from jaxllm.tokenizers import load_tokenizer
from train.cli import main

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

TEXT = "the cat sat on the mat, and number {} stood. "


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("texts").mkdir()
    for i in range(9):
        Path(f"texts/{i}.txt").write_text(TEXT.format(i) * 9)
    return tmp_path


def ran(command: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The notes that the command prints."""
    capsys.readouterr()
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]


def test_a_run_within_its_own_source(capsys: pytest.CaptureFixture[str]) -> None:
    Path("tiny.toml").write_text(f'[data]\nsource = "."\n{TINY}')
    assert not ran("train tiny.toml --out runs/a --set train.steps=5", capsys)
    (note,) = ran("train --out runs/a --resume --set train.steps=6", capsys)
    assert note.startswith("note: left out of ") and note.endswith(
        "because jaxllm itself wrote it: " + f"{Path.cwd()}/runs/a."
    )
    (note,) = ran("train tiny.toml --out runs/b --set train.steps=6", capsys)
    assert note == "note: left out of ., because jaxllm itself wrote it: runs/a."
    assert len(ran("evaluate runs/a", capsys)) == 1
    a, b = (tomllib.loads(Path(f"runs/{name}/config.toml").read_text())["data"] for name in "ab")
    assert a == b
    assert lines(Path("runs/a"))[-1]["val_loss"] > 0
    capsys.readouterr()
    assert main(shlex.split("compare runs/a --length 2 --json")) == 0
    out, error = capsys.readouterr()
    assert json.loads(out)["passed"] and "note: left out of" in error


@pytest.mark.parametrize("options", ["--vocab-size 290", "--kind char", "--kind word"])
def test_a_tokenizer_within_its_own_source(options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert not ran(f"tokenizer train . {options} --out tok.json --processes 1", capsys)
    (note,) = ran(f"tokenizer train . {options} --out again.json --processes 1", capsys)
    assert note == "note: left out of ., because jaxllm itself wrote it: tok.json, tok.vocab.txt."
    assert load_tokenizer("tok.json") == load_tokenizer("again.json")


def test_prepared_data_within_their_own_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "CHUNK", 500)
    monkeypatch.setattr(shard_writer, "JOBS_PER_SHARD", 1)
    ran("tokenizer train texts --vocab-size 290 --out tok.json --processes 1", capsys)
    command = "data prepare . --tokenizer tok.json --processes 1 --out"
    (note,) = ran(f"{command} d", capsys)
    assert note == "note: left out of ., because jaxllm itself wrote it: d, tok.json, tok.vocab.txt."
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(shard_writer, "_finish", lambda *_: 1 / 0)  # with all its shards, and unfinished
        main(shlex.split(f"{command} e/deeper"))
    assert ran(f"{command} e/deeper", capsys) == [note.replace("d, ", "d, e/deeper, ", 1)]
    d, e = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("d", "e/deeper"))
    assert d == e and len(d) > 4
    assert json.loads(d["index.json"])["documents"]["train"] == 9


def test_a_source_and_the_folder_for_its_shards_are_not_one(capsys: pytest.CaptureFixture[str]) -> None:
    ran("tokenizer train texts --vocab-size 290 --out tok.json --processes 1", capsys)
    Path("none").mkdir()
    for folder in ("texts", "none"):
        assert main(shlex.split(f"data prepare {folder} --tokenizer tok.json --out ./{folder}/../{folder}")) == 2
        assert "is the source itself; choose another folder with --out" in capsys.readouterr().err
    assert not any(Path("none").iterdir())


def test_what_failed_before_its_first_shard_may_begin_with_other_settings(capsys: pytest.CaptureFixture[str]) -> None:
    ran("tokenizer train texts --vocab-size 290 --out tok.json --processes 1", capsys)
    Path("other.jsonl").write_text("".join(json.dumps({"body": TEXT.format(i)}) + "\n" for i in range(9)))
    command = "data prepare other.jsonl --tokenizer tok.json --processes 1 --out"
    assert main(shlex.split(f"{command} d")) == 2
    assert "has no text under 'text'; its texts are body: name one with --field" in capsys.readouterr().err
    ran(f"{command} d --field body", capsys)
    ran(f"{command} whole --field body", capsys)
    d, whole = ({path.name: path.read_bytes() for path in Path(name).iterdir()} for name in ("d", "whole"))
    assert d == whole and "index.json" in d
