"""Files mapped into memory: how many at a time, and which one is unmapped."""

import mmap
from pathlib import Path

import pytest

from jaxllm.data import shards


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in "abcd"]
    for path in found:
        path.write_bytes(path.name.encode() * 8)
    return found


def test_the_least_recently_read_file_is_unmapped(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_MAPPED", 2)
    a, b, c, _ = paths
    files = shards.MappedFiles()
    first, second = files(a), files(b)
    assert files(a) is first  # and b is now the older one
    assert files(c)[:] == b"c" * 8
    assert files(a) is first
    assert files(b) is not second and files(b)[:] == b"b" * 8


def test_no_more_are_mapped_than_may_be(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_MAPPED", 3)
    files = shards.MappedFiles()
    counts = [len(files._maps) for path in paths + paths if files(path)]
    assert counts == [1, 2, 3, 3, 3, 3, 3, 3]


def test_systems_without_madvise(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has none; it releases pages by itself."""
    for name in ("MADV_RANDOM", "MADV_DONTNEED"):
        monkeypatch.delattr(mmap, name, raising=False)
    monkeypatch.setattr(shards, "READS_BEFORE_RELEASE", 1)
    files = shards.MappedFiles()
    assert [files(path)[:1] for path in paths] == [b"a", b"b", b"c", b"d"]
