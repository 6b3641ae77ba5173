"""Byte-order marks: UTF-8's is not part of a text; for UTF-16's and UTF-32's an error names the encoding."""

import codecs
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxllm import InputError
from jaxllm.data import documents, read_documents, read_source, shards
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, load_tokenizer
from jaxllm.tokenizers.formats import from_hugging_face, from_tiktoken, to_hugging_face, to_tiktoken
from jaxllm.utils.files import read_json, read_text
from jaxllm.utils.utf8 import without_mark
from train.cli import main
from train.commands.chat import input_lines
from train.config_file import load_config
from train.runs.metrics import read_metrics

MARK = codecs.BOM_UTF8
BPE = BPETokenizer.train("the theatre that the thieves", 260)
OTHERS = {
    "utf-16-le": (codecs.BOM_UTF16_LE, "UTF-16"),
    "utf-16-be": (codecs.BOM_UTF16_BE, "UTF-16"),
    "utf-32-le": (codecs.BOM_UTF32_LE, "UTF-32"),
    "utf-32-be": (codecs.BOM_UTF32_BE, "UTF-32"),
}


def text_of(path: Path) -> str:
    return "".join("".join(document.chunks) for document in read_documents([str(path)]))


def from_zip(path: Path) -> str:
    packed = path.with_name("x.txt.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    return text_of(packed)


def from_folder(path: Path) -> Any:
    (path.parent / "merges.txt").write_bytes(path.read_bytes())
    return load_tokenizer_files(path.parent)[0]


def hugging_face() -> str:
    to_hugging_face(BPE, Path("hf.json"))
    return Path("hf.json").read_text(encoding="utf-8")


def ranks() -> str:
    to_tiktoken(BPE, "r.tiktoken")
    return Path("r.tiktoken").read_text()


def ours() -> str:
    BPE.save("ours.json")
    return Path("ours.json").read_text()


def merges() -> str:
    content = json.loads(hugging_face())
    Path("vocab.json").write_bytes(MARK + json.dumps(content["model"]["vocab"]).encode())
    return "\n".join(map(" ".join, content["model"]["merges"]))


def index() -> str:
    Path("corpus.txt").write_text("the theatre " * 9)
    prepare_shards(["corpus.txt"], BPE, "shards", validation=0)
    for path in Path("shards").glob("*.bin"):
        path.rename(path.name)
    return Path("shards/index.json").read_text()


# For each kind: what writes the text, the name of its file, and what reads it.
READERS: dict[str, tuple[Callable[[], str], str, Callable[[Path], Any]]] = {
    "text": (lambda: "é one\ntwo", "x.txt", text_of),
    "source": (lambda: "é one\ntwo", "x.txt", lambda path: read_source(str(path))),
    "gzip": (lambda: "é one\ntwo", "x.txt", from_zip),
    "JSON lines": (lambda: '{"text": "é one"}\n{"text": "two"}\n', "x.jsonl", text_of),
    "config": (lambda: "[train]\nsteps = 200\n", "x.toml", load_config),
    "tokenizer": (ours, "tokenizer.json", load_tokenizer),
    "tokenizer.json": (hugging_face, "tokenizer.json", from_hugging_face),
    "ranks": (ranks, "r.tiktoken", from_tiktoken),
    "merges": (merges, "merges.txt", from_folder),
    "JSON": (lambda: '{"weight_map": {}}', "model.safetensors.index.json", lambda path: read_json(path, path.name)),
    "pretrained.json": (lambda: json.dumps(ChatFormat(1).to_dict()), "pretrained.json", ChatFormat.load),
    "index": (index, "index.json", lambda path: shards.read_index(path.parent)),
    "template": (lambda: "{{ messages }}", "chat_template.jinja", read_text),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_mark_is_no_part_of_the_text(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write, name, read = READERS[kind]
    text = write()
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    expected = read(path)
    path.write_bytes(MARK + text.encode())
    assert read(path) == expected
    for encoding, (mark, named) in OTHERS.items():
        path.write_bytes(mark + text.encode(encoding))
        with pytest.raises(InputError, match=f"{name}(.gz)? is {named}, as its byte-order mark says; .*iconv -f {named}") as error:  # fmt: skip
            read(path)
        assert "\n" not in str(error.value)


def test_only_the_first_mark_is_dropped() -> None:
    assert without_mark(MARK + MARK + b"a" + MARK, "x") == MARK + b"a" + MARK
    assert without_mark(b"", "x") == b"" and without_mark(MARK[:2], "x") == MARK[:2]


def test_each_file_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_SIZE", 4)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(MARK + b"one \xef\xbb\xbftwo")
    assert read_source(str(tmp_path)) == "one \ufefftwo\none \ufefftwo"
    assert set(CharTokenizer.train(read_source(str(tmp_path / "a.txt"))).characters) == {*"one tw", "\ufeff"}


def test_a_mark_within_json_lines_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n' + MARK + b'{"text": "b"}\n')
    with pytest.raises(InputError, match="line 2 of .*x.jsonl is not JSON"):
        text_of(tmp_path / "x.jsonl")


def test_a_file_of_a_mark_alone_holds_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(MARK)
    assert list(read_documents([str(tmp_path)])) == []


def test_places_are_counted_with_the_mark(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(MARK + b"abc\xe9")
    with pytest.raises(InputError, match="is not UTF-8: byte 0xe9 at offset 6"):
        text_of(tmp_path / "a.txt")
    with pytest.raises(InputError, match="is not UTF-8: byte 0xe9 at offset 6"):
        read_text(tmp_path / "a.txt")


def test_a_mark_in_metrics(tmp_path: Path) -> None:
    line = json.dumps({"step": 1, "tokens": 1, "elapsed_s": 1.0, "train_loss": 1.0, "learning_rate": 1.0, "grad_norm": 1.0, "tokens_per_s": 1.0})  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(MARK + line.encode() + b"\n")
    assert [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("piped", [False, True])
def test_the_commands(
    piped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    BPE.save("tok.json")

    def ran(what: str, content: bytes) -> int:
        Path("x.txt").write_bytes(content)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        capfd.readouterr()
        return main(["tokenizer", what, "tok.json", *([] if piped else ["x.txt"])])

    assert ran("encode", MARK + b"the") == 0
    ids = " ".join(map(str, BPE.encode("the")))
    assert capfd.readouterr().out == ids + "\n"
    assert ran("decode", MARK + ids.encode()) == 0
    assert capfd.readouterr().out == "the"
    assert ran("encode", codecs.BOM_UTF16_LE + "the".encode("utf-16-le")) == 2
    assert "is UTF-16, as its byte-order mark says" in capfd.readouterr().err


def test_a_conversation_from_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    def given(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content)), "utf-8", "replace"))

    given(MARK + b"one\n\ntwo\n")
    assert list(input_lines()) == ["one", "two"]
    given(codecs.BOM_UTF16_LE + "one\n".encode("utf-16-le"))
    with pytest.raises(InputError, match="standard input is UTF-16, as its byte-order mark says"):
        next(input_lines())
