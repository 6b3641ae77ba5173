"""Folders that appear when they are complete: names, rights, and nothing left after an error."""

import os
import stat
from pathlib import Path

import pytest

from jaxllm import InputError
from train.outputs import new_folder

pytestmark = pytest.mark.newest


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002], ids=oct)
def test_a_folder_has_the_rights_that_mkdir_would_give(mask: int, tmp_path: Path) -> None:
    """By the umask, not those of a temporary folder."""
    before = os.umask(mask)
    try:
        with new_folder(tmp_path / "out") as aside:
            assert stat.S_IMODE(aside.stat().st_mode) == 0o700  # nobody else reads an incomplete folder
            (aside / "file").write_text("x")
        assert os.umask(mask) == mask  # reading it has not changed it
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~mask
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_any_other_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with new_folder(tmp_path / "empty") as aside:
        (aside / "file").write_text("x")
    assert (tmp_path / "empty" / "file").read_text() == "x"
    (tmp_path / "link").symlink_to(tmp_path / "none")
    for taken in ("empty", "empty/file", "link"):
        with pytest.raises(InputError, match="is there already; choose another folder"), new_folder(tmp_path / taken):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a" / "out") as aside:
        (aside / "file").write_text("x")
        raise KeyboardInterrupt
    assert [*(tmp_path / "a").iterdir()] == []
