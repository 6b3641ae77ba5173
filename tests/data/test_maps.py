"""Files mapped into memory: how many at a time, and which one goes."""

from pathlib import Path

import pytest

from jaxllm.data import shards


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / name for name in "abcd"]
    for path in found:
        path.write_bytes(path.name.encode() * 8)
    return found


def test_the_file_that_was_not_read_for_longest_goes(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_MAPPED", 2)
    a, b, c, _ = paths
    maps = shards.Maps()
    first, second = maps(a), maps(b)
    assert maps(a) is first  # and b is now the older one
    assert maps(c)[:] == b"c" * 8
    assert maps(a) is first
    assert maps(b) is not second and maps(b)[:] == b"b" * 8


def test_no_more_are_mapped_than_may_be(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_MAPPED", 3)
    maps = shards.Maps()
    counts = [len(maps._maps) for path in paths + paths if maps(path)]
    assert counts == [1, 2, 3, 3, 3, 3, 3, 3]
