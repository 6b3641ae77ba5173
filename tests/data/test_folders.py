"""A folder as a corpus: links are followed, nothing is read twice, and omissions are reported."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jaxllm import InputError
from jaxllm.data import read_documents, read_source
from jaxllm.data.own_output import HEADLINE
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import is_prepared
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer
from jaxllm.tokenizers.listing import vocabulary_text
from jaxllm.utils.errors import Note
from train.config import RunConfig
from train.runs.folder import RunFolder

TEXT = "the cat sat on the mat. "
CHARS = CharTokenizer.train(TEXT)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two texts, one of them in a folder; next to the corpus, another text and another folder."""
    (tmp_path / "corpus" / "m").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    for name in ("corpus/a.txt", "corpus/m/b.txt", "outside/x.txt", "single.txt"):
        (tmp_path / name).write_text(name)
    return tmp_path / "corpus"


def read(folder: Path) -> tuple[list[str], list[str]]:
    """The texts and the notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        texts = ["".join(document.chunks) for document in read_documents([str(folder)])]
    assert all(warning.category is Note for warning in caught)
    return texts, [str(warning.message) for warning in caught]


def test_a_folder_without_links_says_nothing(corpus: Path) -> None:
    (corpus / "empty.txt").touch()
    assert read(corpus) == (["corpus/a.txt", "corpus/m/b.txt"], [])
    (corpus.parent / "link").symlink_to(corpus)
    assert read(corpus.parent / "link") == (["corpus/a.txt", "corpus/m/b.txt"], [])


def test_links_to_folders_and_files_are_followed(corpus: Path) -> None:
    (corpus / "k").symlink_to("../outside")
    (corpus / "m" / "a.txt").symlink_to("../../single.txt")
    assert read(corpus) == (["corpus/a.txt", "outside/x.txt", "single.txt", "corpus/m/b.txt"], [])
    hidden = corpus / ".hidden"
    (hidden / "h").mkdir(parents=True)
    (hidden / "h" / "h.txt").write_text("hidden")
    (corpus / "z").symlink_to(".hidden")
    (corpus / ".h.txt").write_text("hidden, too")
    (corpus / "z.txt").symlink_to(".h.txt")
    texts, notes = read(corpus)
    assert texts[-2:] == ["hidden", "hidden, too"] and not notes  # through links with visible names


@pytest.mark.parametrize("target", [".", "..", "../corpus", "m", "/absolute"])
def test_no_folder_is_read_twice(corpus: Path, target: str) -> None:
    target = str(corpus) if target == "/absolute" else target
    for name in ("l", "n", "m/n"):  # before and after the folder m, and within it
        link = corpus / name
        link.symlink_to(os.path.relpath(corpus / target, link.parent) if target[0] != "/" else target)
    texts, notes = read(corpus)
    beside = ["outside/x.txt", "single.txt"] if target == ".." else []
    assert sorted(texts) == sorted(["corpus/a.txt", "corpus/m/b.txt", *beside])
    assert len(notes) == 1 and f"left out of {corpus}, because it is read under another name: " in notes[0]


@pytest.mark.parametrize("links", [
    {"c.txt": "a.txt"}, {"0.txt": "a.txt"}, {"0.txt": "m/b.txt"}, {"z.txt": "m/b.txt"}, {"m/0.txt": "../a.txt"},
    {"m/c.txt": "b.txt", "n.txt": "m/c.txt"},
], ids=str)  # fmt: skip
def test_no_file_is_read_twice(corpus: Path, links: dict[str, str]) -> None:
    for name, target in links.items():
        (corpus / name).symlink_to(target)
    texts, notes = read(corpus)
    assert sorted(texts) == ["corpus/a.txt", "corpus/m/b.txt"]
    assert len(notes) == 1 and "because it is read under another name: " in notes[0]


def test_two_links_to_what_lies_outside(corpus: Path) -> None:
    for name in ("c.txt", "d.txt", "m/c.txt"):
        (corpus / name).symlink_to(corpus.parent / "single.txt")
    texts, notes = read(corpus)
    assert texts == ["corpus/a.txt", "single.txt", "corpus/m/b.txt"]
    assert notes == [f"left out of {corpus}, because it is read under another name: {corpus}/d.txt, {corpus}/m/c.txt."]


def test_a_link_to_a_file_whose_folder_is_read_later(corpus: Path) -> None:
    (corpus / "0.txt").symlink_to("../outside/x.txt")
    (corpus / "z").symlink_to("../outside")
    texts, notes = read(corpus)
    assert texts == ["outside/x.txt", "corpus/a.txt", "corpus/m/b.txt"] and len(notes) == 1


def test_hard_links_are_two_files(corpus: Path) -> None:
    """Once the folder is copied elsewhere, they look like copies."""
    os.link(corpus / "a.txt", corpus / "c.txt")
    assert read(corpus) == (["corpus/a.txt", "corpus/a.txt", "corpus/m/b.txt"], [])


@pytest.mark.parametrize("target", ["nowhere", "self", "a.txt/x", "other"])
def test_links_that_lead_nowhere_are_named(corpus: Path, target: str) -> None:
    (corpus / "self").symlink_to(target)
    if target == "other":
        (corpus / "other").symlink_to("self")
    texts, notes = read(corpus)
    assert texts == ["corpus/a.txt", "corpus/m/b.txt"]
    names = f"{corpus}/other, {corpus}/self" if target == "other" else f"{corpus}/self"
    assert notes == [f"left out of {corpus}, because a symbolic link leads nowhere: {names}."]


def test_a_link_to_itself_on_windows(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There the error number is EINVAL, and `winerror` says what happened."""
    (corpus / "self").symlink_to("self")
    look = os.stat

    def refuse(path: object, **options: Any) -> object:
        if str(path) == str(corpus / "self"):
            error = OSError(22, "The name of the file cannot be resolved by the system")
            error.winerror = 1921  # type: ignore[attr-defined,unused-ignore]
            raise error
        return look(path, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        texts, notes = read(corpus)
    assert texts == ["corpus/a.txt", "corpus/m/b.txt"]
    assert notes == [f"left out of {corpus}, because a symbolic link leads nowhere: {corpus}/self."]


def test_many_are_counted(corpus: Path) -> None:
    for i in range(1000):
        (corpus / f"x{i:03}\x1b").symlink_to("nowhere")
    ((note,)) = read(corpus)[1]
    assert "x000\\x1b, " in note and note.endswith("x004\\x1b and 995 more.")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_named(corpus: Path) -> None:
    os.mkfifo(corpus / "pipe")
    (corpus / "to-pipe").symlink_to("pipe")
    texts, notes = read(corpus)
    assert texts == ["corpus/a.txt", "corpus/m/b.txt"]
    assert notes == [f"left out of {corpus}, because it is no regular file: {corpus}/pipe, {corpus}/to-pipe."]


@pytest.mark.parametrize(("name", "error"), [
    ("l", PermissionError(13, "Permission denied")),
    ("a.txt", FileNotFoundError(2, "No such file or directory")),  # a file that is gone, not a link
])  # fmt: skip
def test_what_cannot_be_looked_at_is_an_error(
    corpus: Path, name: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    (corpus / "l").symlink_to("../outside")
    look = os.stat

    def refuse(path: object, **options: Any) -> object:
        if str(path) == str(corpus / name):
            raise error
        return look(path, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(InputError, match=f"cannot read data.source '.*corpus': .*{error.strerror}"):
            read_source(str(corpus))


def make_run(path: Path) -> None:
    path.mkdir()
    RunFolder(path).create(RunConfig(), CHARS)
    (path / "samples.txt").write_text("a sample")


def make_prepared(path: Path) -> None:
    (path.parent / ".text").write_text(TEXT)
    prepare_shards([str(path.parent / ".text")], CHARS, path)


def make_unfinished(path: Path) -> None:
    make_prepared(path)
    index = (path / "index.json").read_text()
    (path / "index.json").unlink()
    (path / "progress.json").write_text(index.replace("jaxllm shards", "jaxllm shards in progress"))


def make_damaged(path: Path) -> None:
    make_prepared(path)
    (path / "index.json").write_text("")


def make_begun(path: Path) -> None:
    path.mkdir()
    (path / "progress.json").write_text('{"format":"jaxllm shards in progress","version":1}')


def make_half_a_config(path: Path) -> None:
    path.write_text(HEADLINE.format("0.1.0", "3.12.1", "0.12.0") + "[data]")


def make_tokenizer(tokenizer: Tokenizer) -> Callable[[Path], None]:
    return tokenizer.save


def make_vocabulary(tokenizer: Tokenizer) -> Callable[[Path], None]:
    return lambda path: None if path.write_text(vocabulary_text(tokenizer)) else None


WITH_ADDED = BPETokenizer([bytes([i]) for i in range(256)], ["<s>"], added={"<a>": 257})
TOKENIZERS = (
    CHARS, WordTokenizer.train(TEXT), BPETokenizer.train(TEXT + "\n é", 265), CharTokenizer("[]\n1 "), WITH_ADDED,
)  # fmt: skip
OWN = {
    "a run": make_run, "prepared": make_prepared, "unfinished": make_unfinished, "a damaged index": make_damaged,
    "just begun": make_begun, "half a config": make_half_a_config,
    **{f"tokenizer {i} {t.kind}": make_tokenizer(t) for i, t in enumerate(TOKENIZERS)},
    **{f"vocabulary {i} {t.kind}": make_vocabulary(t) for i, t in enumerate(TOKENIZERS)},
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.parametrize("name", ["any name", "m/deeper"])
def test_what_jaxllm_wrote_is_no_text(kind: str, name: str, corpus: Path) -> None:
    before = read(corpus)[0]
    OWN[kind](corpus / name)
    texts, notes = read(corpus)
    assert texts == before
    assert notes == [f"left out of {corpus}, because jaxllm itself wrote it: {corpus}/{name}."]
    (corpus / "z").symlink_to(name)
    assert read(corpus)[0] == before


FOREIGN = {
    "index.json": '{"format": "other", "pages": 3}', "progress.json": "not JSON", "tokenizer.json": '{"version": "1.0"}',
    "config.toml": "# jaxllm is what I train with\n[data]\n", "x.vocab.txt": "[a] 0\n[b] 2\n", "y.vocab.txt": "[a] 1\n",
    "formats.json": '{"formats": ["jaxllm tokenizer"]}', "one.json": '["format", "jaxllm tokenizer"]', "notes.txt": "[1] 0 or not",
    "z.txt": "x] 0\n", "checkpoints": "a file",
}  # fmt: skip


def test_what_others_wrote_is_text_by_whatever_name(corpus: Path) -> None:
    for name, content in FOREIGN.items():
        (corpus / name).write_text(content)
    texts, notes = read(corpus)
    assert not notes and set(texts) == {"corpus/a.txt", "corpus/m/b.txt", *FOREIGN.values()}
    assert not is_prepared(str(corpus))


def test_a_tokenizer_beside_texts_makes_no_prepared_data(corpus: Path) -> None:
    before = read(corpus)[0]
    CHARS.save(corpus / "tokenizer.json")
    assert not is_prepared(str(corpus)) and read(corpus)[0] == before


def test_a_config_copied_from_a_run_makes_no_run(corpus: Path) -> None:
    before = read(corpus)[0]
    make_half_a_config(corpus / "m" / "config.toml")
    assert read(corpus)[0] == before


@pytest.mark.parametrize("kind", ["a run", "prepared", "unfinished", "a damaged index"])
def test_a_source_that_jaxllm_wrote_is_refused(kind: str, corpus: Path) -> None:
    OWN[kind](corpus / "x")
    with pytest.raises(InputError, match="x' holds (a run|prepared data) of jaxllm, no text"):
        read_source(str(corpus / "x"))
