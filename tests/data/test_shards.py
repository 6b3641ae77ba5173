"""Prepared data: the same for any number of processes and interruptions, damage noticed, memory bounded."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxllm import InputError
from jaxllm.data import shard_writer, shards
from jaxllm.data.id_sequences import IdSlice, JoinedIds
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import is_prepared, open_split, read_index, verify
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from jaxllm.utils.files import replace_file

TEXTS = [f"document {i}: it's number {i * i}, and\n\n{'more ' * (i % 7)} é東🙂" for i in range(300)]
BPE = BPETokenizer.train(TEXTS, 300)
END = BPE.end_of_text


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many jobs and shards in a small corpus."""
    monkeypatch.setattr(shard_writer, "CHUNK", 500)
    monkeypatch.setattr(shard_writer, "JOBS_PER_SHARD", 4)


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(path)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def ids(folder: Path, split: str) -> list[int]:
    return open_split(folder, read_index(folder), split)[:].tolist()


def documents(folder: Path, split: str) -> list[str]:
    """The texts between the separators."""
    out: list[list[int]] = [[]]
    for i in ids(folder, split):
        out[-1].append(i) if i != END else out.append([])
    return [BPE.decode(one) for one in out]


def test_all_documents_are_there_in_order_each_in_one_split(corpus: str, tmp_path: Path) -> None:
    index = prepare_shards([corpus], BPE, tmp_path / "out", validation=0.1)
    train, validation = (documents(tmp_path / "out", split) for split in ("train", "validation"))
    assert [text for text in TEXTS if text in set(train)] == train
    assert [text for text in TEXTS if text in set(validation)] == validation
    assert sorted(train + validation) == sorted(TEXTS)
    assert index.documents == {"train": len(train), "validation": len(validation)} and 10 < len(validation) < 60
    assert len(index.splits["train"]) > 3 and index.characters == sum(map(len, TEXTS))
    assert (index.dtype, index.separator) == ("uint16", END)
    assert load_tokenizer(tmp_path / "out" / "tokenizer.json") == BPE
    verify(tmp_path / "out", index)


def test_the_same_for_any_number_of_processes(corpus: str, tmp_path: Path) -> None:
    for processes in (1, 2):
        prepare_shards([corpus], BPE, tmp_path / str(processes), validation=0.1, processes=processes)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_adding_data_moves_no_document(corpus: str, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("one more")
    prepare_shards([corpus], BPE, tmp_path / "a", validation=0.2)
    prepare_shards([str(tmp_path / "more.txt"), corpus], BPE, tmp_path / "b", validation=0.2)
    for split in ("train", "validation"):
        assert set(documents(tmp_path / "a", split)) <= set(documents(tmp_path / "b", split))


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_an_interrupted_preparation_goes_on(
    corpus: str, tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at every kind of moment: before and after a shard, and between the last shard and the index."""
    prepare_shards([corpus], BPE, tmp_path / "whole", validation=0.1)
    written = []

    def failing(path: Path, content: bytes) -> None:
        written.append(path)
        if len(written) % 7 == stop:
            raise KeyboardInterrupt
        replace_file(path, content)

    monkeypatch.setattr(shard_writer, "replace_file", failing)
    for _ in range(20):
        try:
            prepare_shards([corpus], BPE, tmp_path / "out", validation=0.1)
            break
        except KeyboardInterrupt:
            if (tmp_path / "out" / "progress.json").exists():
                with pytest.raises(InputError, match="is not finished: give the same"):
                    read_index(tmp_path / "out")
    assert len(written) > 12
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_was_begun_goes_on_only_with_the_same_settings_and_text(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(shard_writer, "_finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        prepare_shards([corpus], BPE, out)
    before = contents(out)
    other = BPETokenizer.train(TEXTS, 290)
    for sources, tok, options, message in (
        ([corpus], other, {}, "was begun with tokenizer = "),
        ([corpus], BPE, {"validation": 0.5}, "was begun with validation = 0.01, not 0.5"),
        ([corpus], BPE, {"field": "body"}, "was begun with field = 'text', not 'body'"),
        ([corpus, corpus], BPE, {}, "was begun with sources = "),
    ):
        with pytest.raises(InputError, match=message):
            prepare_shards(sources, tok, out, **options)
    Path(corpus).write_text(Path(corpus).read_text().replace("document 7:", "document 8:"))
    with pytest.raises(InputError, match="the text has changed since .* was begun"):
        prepare_shards([corpus], BPE, out)
    assert contents(out) == before
    (out / "progress.json").write_text("{")
    with pytest.raises(InputError, match="progress.json is damaged"):
        prepare_shards([corpus], BPE, out)


def test_where_it_may_not_write(corpus: str, tmp_path: Path) -> None:
    prepare_shards([corpus], BPE, tmp_path / "out")
    with pytest.raises(InputError, match="holds prepared data already"):
        prepare_shards([corpus], BPE, tmp_path / "out")
    with pytest.raises(InputError, match="is not empty"):
        prepare_shards([corpus], BPE, tmp_path)
    with pytest.raises(InputError, match="is the source itself; choose another folder"):
        prepare_shards([str(tmp_path)], BPE, tmp_path / "out" / "..")
    with pytest.raises(InputError, match="is a file"):
        prepare_shards([corpus], BPE, corpus)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="empty.txt holds no text"):
        prepare_shards([str(tmp_path / "empty.txt")], BPE, tmp_path / "none")
    assert not (tmp_path / "none" / "index.json").exists()
    for share in (-0.1, 1, float("nan")):
        with pytest.raises(InputError, match="but it must be a share from 0 to below 1"):
            prepare_shards([corpus], BPE, tmp_path / "share", validation=share)


CODE = """
import json, resource, sys
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data import shard_writer
from jaxllm.tokenizers import load_tokenizer
shard_writer.CHUNK, shard_writer.JOBS_PER_SHARD = 500, 4
{limit}
prepare_shards(sys.argv[1:2], load_tokenizer(sys.argv[2]), sys.argv[3], validation=0.1, progress=lambda n: print(n, flush=True))
"""


def start(corpus: str, tmp_path: Path, limit: str = "") -> "subprocess.Popen[str]":
    BPE.save(tmp_path / "tok.json")
    command = [
        sys.executable,
        "-c",
        CODE.format(limit=limit),
        corpus,
        str(tmp_path / "tok.json"),
        str(tmp_path / "out"),
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_preparation_goes_on(corpus: str, tmp_path: Path) -> None:
    """kill -9 in the middle."""
    slow = "import time; encode = shard_writer._encode; shard_writer._encode = lambda job: (time.sleep(0.02), encode(job))[1]"
    process = start(corpus, tmp_path, slow)
    assert process.stdout
    for _ in range(11):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert is_prepared(str(tmp_path / "out")) and (tmp_path / "out" / "train-00000.bin").exists()
    with pytest.raises(InputError, match="is not finished"):
        read_index(tmp_path / "out")
    prepare_shards([corpus], BPE, tmp_path / "out", validation=0.1)
    prepare_shards([corpus], BPE, tmp_path / "whole", validation=0.1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_full_disk_is_one_sentence_and_loses_nothing(corpus: str, tmp_path: Path) -> None:
    """A limit on a file's size replaces the full disk: writing the first shard fails half-way."""
    process = start(
        corpus, tmp_path, "shard_writer.JOBS_PER_SHARD = 20; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))"
    )
    _, errors = process.communicate()
    assert "train-00000.bin" in errors.splitlines()[-1] and "make room, then give the same command again" in errors
    assert not (tmp_path / "out" / "train-00000.bin").exists() and not (tmp_path / "out" / "index.json").exists()
    prepare_shards([corpus], BPE, tmp_path / "out", validation=0.1)
    prepare_shards([corpus], BPE, tmp_path / "whole", validation=0.1)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("tok", "separator"),
    [(CharTokenizer.train(TEXTS), "\n"), (CharTokenizer("ab"), ""), (WordTokenizer.train(TEXTS), "<|endoftext|>"), (BPETokenizer(BPE.tokens, ()), "\n")],
    ids=["char", "no newline", "word", "no end-of-text"],
)  # fmt: skip
def test_other_tokenizers(tok: Tokenizer, separator: str, tmp_path: Path) -> None:
    for name, text in (("1.txt", "ab ab"), ("2.txt", "ab")):
        (tmp_path / name).write_text(text if separator else text.replace(" ", ""))
    index = prepare_shards([str(tmp_path)], tok, tmp_path.parent / f"{tmp_path.name}-out", validation=0)
    stored = open_split(tmp_path.parent / f"{tmp_path.name}-out", index, "train")[:]
    a, b = (tok.encode((tmp_path / name).read_text()) for name in ("1.txt", "2.txt"))
    between = tok.encode(separator)
    assert stored.tolist() == a + between + b
    assert index.separator == tok.end_of_text
    assert not len(open_split(tmp_path, index, "validation"))


def test_large_vocabularies_take_four_bytes() -> None:
    assert [shard_writer.dtype_for(n) for n in (2**16, 2**16 + 1)] == ["uint16", "uint32"]


@pytest.fixture
def prepared(corpus: str, tmp_path: Path) -> Path:
    prepare_shards([corpus], BPE, tmp_path / "out", validation=0.1)
    return tmp_path / "out"


def test_damage_is_noticed(prepared: Path) -> None:
    path = prepared / "train-00001.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(InputError, match=r"the shard .*train-00001.bin is damaged: its sha256 is"):
        verify(prepared, read_index(prepared))
    path.write_bytes(whole[:-2])
    with pytest.raises(
        InputError, match=f"train-00001.bin has {len(whole) - 2:,} bytes, but its .* cut short or changed"
    ):
        read_index(prepared)
    path.unlink()
    with pytest.raises(InputError, match="cannot read the shard .*train-00001.bin: No such file"):
        read_index(prepared)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 2, "is no index of version 1"), ("format", "other", "is no index"), ("dtype", "int8", "is no index"),
        ("splits", {"train": [{"file": "../x.bin", "count": 1, "sha256": ""}]}, "names a shard '../x.bin'"),
        ("splits", {"train": [{"file": "x.bin", "count": -1, "sha256": ""}]}, "of -1 ids"), ("more", 1, "is no index"),
    ],
)  # fmt: skip
def test_a_wrong_index_is_refused(prepared: Path, key: str, value: object, message: str) -> None:
    content = json.loads((prepared / "index.json").read_text())
    (prepared / "index.json").write_text(json.dumps(content | {key: value}))
    with pytest.raises(InputError, match=message):
        read_index(prepared)
    for text in ("", "[" * 100_000, "{", "\xff"):
        (prepared / "index.json").write_text(text, encoding="latin-1")
        with pytest.raises(InputError, match="is no index of version 1, or damaged"):
            read_index(prepared)


def test_slices_across_shards(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_MAPPED", 2)
    monkeypatch.setattr(shards, "READS_BEFORE_RELEASE", 3)
    row = open_split(prepared, read_index(prepared), "train")
    whole = np.concatenate([np.fromfile(path, "<u2") for path in sorted(prepared.glob("train-*"))])
    assert len(row) == len(whole) and len(list(prepared.glob("train-*"))) > 3
    rng = np.random.default_rng(0)
    part = IdSlice(row, 100, 1100)
    for start, stop in [(0, len(whole)), (-5, None), (7, 3), *rng.integers(len(whole), size=(100, 2)).tolist()]:
        np.testing.assert_array_equal(row[start:stop], whole[start:stop])
        np.testing.assert_array_equal(part[start:stop], whole[100:1100][start:stop])
    np.testing.assert_array_equal(JoinedIds([part, whole])[990:1010], np.concatenate([whole[1090:1100], whole[:10]]))
    with pytest.raises(ValueError, match="not in steps of 2"):
        row[0:10:2]


def test_reading_releases_its_memory(tmp_path: Path) -> None:
    """Of 64 MB that are read, only the pages since the last release stay in memory."""
    path = tmp_path / "x.bin"
    np.zeros(2**25, "<u2").tofile(path)
    row = shards.ShardIds(path, np.dtype("<u2"), 2**25, shards.MappedFiles())
    before = resident()
    for start in range(0, 2**25 - 2**15, 2**15):
        row[start : start + 2**15].sum()
    assert row.files._reads == 1023
    row.files._reads = shards.READS_BEFORE_RELEASE - 1
    row[0:1].sum()
    assert resident() - before < 16 * 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
