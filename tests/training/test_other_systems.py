"""Functions and modules that only Linux or POSIX has are hidden: the code takes its other way, as on macOS and Windows."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxllm.utils import private_folder
from train.bench.machine import processor
from train.bench.peers import protocol
from train.bench.process import Worker
from train.runs.folder import RunFolder
from train.runtime import allocator, memory, signals

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]


def missing(*_: Any, **__: Any) -> Any:
    raise FileNotFoundError(2, "no such file")


def test_every_module_is_imported_without_posix() -> None:
    code = f"""
import importlib, sys
from pathlib import Path
sys.modules.update(dict.fromkeys(("fcntl", "resource", "pwd", "grp", "termios"), None))
for room in ("train", "train/runs", "train/runtime", "train/bench", "train/commands", "jaxllm/utils"):
    for path in sorted(Path({str(ROOT)!r}, room).glob("*.py")):
        if path.stem not in ("__main__", "__init__"):
            importlib.import_module(f"{{room}}/{{path.stem}}".replace("/", "."))
import train.bench.peers.protocol
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_fcntl_a_folder_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    folder = RunFolder(tmp_path / "run")
    with folder.locked(), folder.locked():
        assert folder.path.is_dir()


def test_without_process_groups_the_process_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "killpg")
    worker = Worker("it", [sys.executable, "-c", "import time; time.sleep(600)"], {})
    with worker:
        assert worker._process.poll() is None
    assert worker._process.returncode == -9


def test_without_proc_and_resource_the_peak_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "open", missing, raising=False)
    assert protocol.peak_memory() > 2**20  # by `resource`
    monkeypatch.setitem(sys.modules, "resource", None)
    assert protocol.peak_memory() == 0


def test_without_proc_the_processor_is_what_python_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.processor", lambda: "arm")
    monkeypatch.setattr("train.bench.machine.open", missing, raising=False)
    assert processor() == "arm"
    monkeypatch.setattr(Path, "read_text", missing)
    assert private_folder.processor() == ["arm"]


def test_without_proc_the_free_memory_is_unknown(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path) is None


def test_without_set_blocking_signals_are_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.11 on Windows, where `set_wakeup_fd` takes a pipe as it is."""
    monkeypatch.delattr(os, "set_blocking")
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda _: -1)
    before = [signal.getsignal(number) for number in signals.HANDLED]
    with signals.stoppable() as stop:
        assert not stop
        assert [signal.getsignal(number) for number in signals.HANDLED] != before
    assert [signal.getsignal(number) for number in signals.HANDLED] == before


def test_with_another_c_library_nothing_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    monkeypatch.delattr(os, "execve")
    allocator.restart_with_allocator()
