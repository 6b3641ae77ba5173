"""Corpora as streams of documents: every kind of file, in bounded chunks, and errors that name line or byte."""

import gzip
import json
from pathlib import Path

import pytest

from jaxllm import InputError
from jaxllm.data import documents, json_lines, read_documents, read_source
from jaxllm.tokenizers.chunks import chunk_text


def texts(*sources: object, field: str = "text") -> list[str]:
    return ["".join(document.chunks) for document in read_documents([str(s) for s in sources], field)]


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def lines(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def test_every_kind_of_source(tmp_path: Path) -> None:
    write(tmp_path / "a" / "z.md", "first é")
    write(tmp_path / "a.txt", "second")
    write(tmp_path / "b.jsonl", lines({"text": "third\r\n"}, {"text": ""}, {"text": "fourth", "more": 1}) + "\n  \n")
    write(tmp_path / "c.gz", gzip.compress(b"fifth"))
    write(tmp_path / "d.jsonl.gz", gzip.compress(lines({"text": "sixth"}).encode()))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / ".hidden" / "e.txt", "unseen")
    write(tmp_path / ".unseen", "unseen")
    expected = ["first é", "second", "third\r\n", "fourth", "fifth", "sixth"]
    assert texts(tmp_path) == expected
    assert texts(tmp_path / "a.txt", tmp_path / "c.gz") == ["second", "fifth"]
    assert read_source(str(tmp_path)) == "\n".join(expected)
    assert texts(write(tmp_path / "other.jsonl", lines({"body": "x"})), field="body") == ["x"]


@pytest.mark.parametrize("name", [
    "a.jsonl", "a.JSONL", "a.JsonL", "a.ndjson", "a.NDJSON", "a.jsonl.gz", "a.JSONL.GZ", "a.jsonl.Gz", "a.ndjson.gz",
])  # fmt: skip
def test_json_lines_by_any_ending(name: str, tmp_path: Path) -> None:
    content = lines({"text": "first"}, {"text": "second"}).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.lower().endswith("gz") else content)
    assert texts(path) == texts(tmp_path) == ["first", "second"]


@pytest.mark.parametrize("name", ["a.GZ", "a.txt.Gz", "jsonl.gz", "ndjson"])
def test_texts_by_any_ending(name: str, tmp_path: Path) -> None:
    content = lines({"text": "no lines of JSON"})
    write(tmp_path / name, gzip.compress(content.encode()) if name.lower().endswith("gz") else content)
    assert texts(tmp_path) == [content]


def test_read_source_takes_a_field(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", lines({"text": "no", "body": "a"}, {"text": "no", "body": "b"}))
    assert read_source(str(path), "body") == "a\nb"


def test_a_long_document_comes_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_SIZE", 7)  # which cuts characters of two, three and four bytes
    monkeypatch.setattr(documents, "chunk_text", lambda text: chunk_text(text, 10))
    monkeypatch.setattr(documents, "LONGEST_CHUNK", 40)
    for text in ("é 東京 🙂 \r\n" * 30, "東" * 100, "x" * 60 + " y"):
        path = write(tmp_path / "long.txt", text)
        ((name, chunks),) = [(document.name, list(document.chunks)) for document in read_documents([str(path)])]
        assert name == str(path) and "".join(chunks) == text
        assert max(map(len, chunks)) <= 40 + 7 and all(chunks)
        assert len(chunks) > 1


def test_named_corpora() -> None:
    topics = texts("python-docs")
    assert len(topics) > 50 and "\n\n".join(topics) + "\n" == read_source("python-docs")
    modules = [document.name for document in read_documents(["python-stdlib"])]
    assert any(name.endswith("/json/decoder.py") for name in modules) and len(modules) > 400
    assert not any("/test/" in name or "site-packages" in name for name in modules)


WRONG = {
    "nested.jsonl": ("[" * 100_000, "line 1 of .*nested.jsonl is not JSON: "),
    "broken.jsonl": (lines({"text": "a"}) + '{"text": "b",}\n', r"line 2 of .*broken.jsonl is not JSON: .*, column"),
    "number.jsonl": (lines({"text": "a"}, {"text": 5, "body": "b"}), "line 2 of .* has no text under 'text'; its texts are body: name one with --field, or in a config with data.field[.]"),
    "list.jsonl": (lines(["a"]), "line 1 of .* has no text under 'text'[.]"),
    "half.jsonl": ('{"text": "\\ud800"}\n', "line 1 of .*half.jsonl: the text holds a lone surrogate"),
    "latin.jsonl": (b'{"text": "ok"}\n{"text": "caf\xe9"}\n', "line 2 of .* is not UTF-8: byte 0xe9 at offset 13"),
    "latin.txt": (b"x" * 9 + "é".encode() + b"\xe9 more", "latin.txt is not UTF-8: byte 0xe9 at offset 11"),
    "cut.txt": ("é".encode()[:1], "cut.txt is not UTF-8: byte 0xc3 at offset 0"),
    "cut.gz": (gzip.compress(b"text" * 1000)[:-9], "cut.gz is a damaged gzip file"),
    "no.gz": (b"no gzip", "no.gz is a damaged gzip file"),
    "flipped.gz": (gzip.compress(b"text")[:-8] + b"\0" * 8, "flipped.gz is a damaged gzip file"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "READ_SIZE", 10)  # which separates the two bytes of é in latin.txt
    content, message = WRONG[name]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as error:
        texts(path)
    assert "\n" not in str(error.value)


def test_an_endless_line_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_lines, "LONGEST_LINE", 100)
    with pytest.raises(InputError, match="line 1 of .* is longer than 100 bytes; is it a file of JSON lines"):
        texts(write(tmp_path / "x.jsonl", "x" * 101))
