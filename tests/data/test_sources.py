"""Where text comes from: the documentation inside Python, files and folders, and corpora that are downloaded once."""

import hashlib
from pathlib import Path

import pytest

from jaxllm import InputError
from jaxllm.data import read_source, sources


def test_python_docs() -> None:
    text = read_source("python-docs")
    assert len(text) > 400_000
    assert 'The "assert" statement' in text
    assert text == read_source("python-docs")


def test_a_file_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "z.md").write_text("first é", encoding="utf-8")
    (tmp_path / ".hidden").write_text("unseen")
    assert read_source(str(tmp_path / "b.txt")) == "second"
    assert read_source(str(tmp_path)) == "first é\nsecond"


def test_wrong_sources(tmp_path: Path) -> None:
    empty, latin, nothing = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "nothing"
    empty.write_bytes(b"")
    latin.write_bytes(b"caf\xe9")
    nothing.mkdir()
    for source, message in (
        (str(empty), "holds no text"),
        (str(nothing), "holds no text"),
        (str(latin), "not UTF-8: byte 0xe9 at offset 3"),
        (str(tmp_path), "not UTF-8: byte 0xe9 at offset 3"),
        (str(tmp_path / "missing.txt"), "is no file or folder"),
        ("tinyshakespear", "did you mean tinyshakespeare"),
        ("a\0b", "cannot read data.source"),
        ("", "data.source is empty"),
    ):
        with pytest.raises(InputError, match=message) as error:
            read_source(source)
        assert "\n" not in str(error.value)


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A named corpus "small" that is downloaded from a file; returns that file."""
    content = b"a small text"
    origin = tmp_path / "origin.txt"
    origin.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    monkeypatch.setitem(sources.NAMED_CORPORA, "small", sources.Corpus(origin.as_uri(), digest))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return origin


def test_a_named_corpus_is_downloaded_once(corpus: Path) -> None:
    assert read_source("small") == "a small text"
    corpus.unlink()
    assert read_source("small") == "a small text"
    assert [p.name for p in sources.cache_folder().iterdir()] == ["small.txt"]


def test_a_named_corpus_without_a_network_says_what_to_put_where(corpus: Path) -> None:
    corpus.unlink()
    with pytest.raises(InputError, match=r"cannot download small .* put it here as .*cache/jaxllm/small.txt"):
        read_source("small")


def test_a_wrong_corpus_is_not_kept(corpus: Path) -> None:
    corpus.write_bytes(b"something else")
    with pytest.raises(InputError, match="is not small"):
        read_source("small")
    assert not (sources.cache_folder() / "small.txt").exists()


def test_a_damaged_cache_is_noticed(corpus: Path) -> None:
    read_source("small")
    (sources.cache_folder() / "small.txt").write_bytes(b"a small texT")
    with pytest.raises(InputError, match="is not small .* delete it"):
        read_source("small")
