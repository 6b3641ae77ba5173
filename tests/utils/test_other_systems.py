"""What only some systems have: without it, files are read and processes started in another way."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jaxllm.utils import files, processes
from jaxllm.utils.files import open_file, read_file, replace_file, sync_folder
from jaxllm.utils.processes import MOST_ON_WINDOWS, in_processes, usable_cores


def test_cores_without_an_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS and Windows have no `sched_getaffinity`."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, usable in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert usable_cores() == usable


@pytest.mark.parametrize(("system", "started"), [("posix", 100), ("nt", MOST_ON_WINDOWS)])
def test_windows_waits_for_61_processes_at_most(system: str, started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    class Pool:
        def __init__(self, n: int, *_: Any) -> None:
            asked.append(n)

        def submit(self, function: Any, item: Any) -> Any:
            return SimpleNamespace(result=lambda: function(item))

        def shutdown(self, **_: Any) -> None:
            pass

    monkeypatch.setattr(processes, "os", SimpleNamespace(name=system))
    monkeypatch.setattr(processes, "ProcessPoolExecutor", Pool)
    assert list(in_processes(abs, range(-300, 0), 100)) == list(range(300, 0, -1))
    assert asked == [started]


def test_windows_opens_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    sync_folder(tmp_path)
    monkeypatch.setattr(files, "os", SimpleNamespace(name="nt", O_RDONLY=os.O_RDONLY, open=refuse))
    sync_folder(tmp_path)


def test_files_are_opened_without_posix_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK", raising=False)
    replace_file(tmp_path / "a", b"one\r\ntwo")
    assert read_file(tmp_path / "a") == b"one\r\ntwo"
    with pytest.raises(OSError):
        open_file(tmp_path)
