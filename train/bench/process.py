"""A process for each side, so that memory, compilation and the first step are measured per side."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from jaxllm.utils.errors import InputError

from ..runtime.allocator import with_allocator

KILL = 9  # SIGKILL, which Windows does not name


def worker_environment(folder: Path | None = None) -> dict[str, str]:
    """The environment of each side's process, in which Python searches for modules in `folder` first.

    Both sides have our setting of the memory allocator.
    """
    # By default JAX takes three quarters of a GPU's memory in advance, and the other side needs its part.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    if folder is not None:  # also where PYTHONSAFEPATH leaves the working folder out
        environment["PYTHONPATH"] = os.pathsep.join([str(folder), environment.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return with_allocator(environment)


def check_python(python: str, modules: tuple[str, ...], name: str) -> None:
    """Raises InputError if `python` cannot be started or lacks a module."""
    search = f"import sys, importlib.util as u; sys.exit(any(u.find_spec(m) is None for m in {modules}))"
    try:
        found = subprocess.run([python, "-c", search], capture_output=True)
    except OSError as error:
        raise InputError(f"--peer-python {python} cannot be started: {error.strerror}.") from None
    if found.returncode:
        raise InputError(
            f"{name} needs a Python with {', '.join(modules)}, which {python} is not; give --peer-python EXE."
        )


def last_line(text: str, otherwise: str) -> str:
    """The last line that is not blank, as part of a sentence."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), otherwise).rstrip(".")


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that leads a session, with the processes that it has started, such as a compiler's.

    On Windows, which has no such groups, only the process itself.
    """
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended; macOS then denies permission
            os.killpg(process.pid, KILL)
    else:
        process.kill()


def _accepted(answer: dict[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        raise InputError(answer["refused"])
    return answer


class Worker:
    """A process that answers messages (`train.bench.peers.protocol`). As a context manager it ends the process.

    Raises InputError, with the last line of a process that ends before it has answered.
    """

    def __init__(self, name: str, command: list[str], job: dict[str, Any], folder: Path | None = None) -> None:
        """`folder` is its working folder, by default the current one; Python searches there first."""
        self.name = name
        self._errors = tempfile.TemporaryFile()
        self._job = job | {"spawned": time.time()}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=worker_environment(folder), cwd=folder, start_new_session=True,  # Ctrl-C reaches the parent only
        )  # fmt: skip

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        kill_group(self._process)
        self._process.wait()
        assert self._process.stdin and self._process.stdout
        self._process.stdout.close()
        with contextlib.suppress(OSError):  # the job was never read
            self._process.stdin.close()
        self._errors.close()

    def start(self) -> dict[str, Any]:
        """Build the model and take the first step."""
        return self.ask(self._job)

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a message and return its answer. Other lines, which a library may print, are skipped.

        Raises InputError with the reason if the process refuses its job.
        """
        assert self._process.stdin and self._process.stdout
        with contextlib.suppress(OSError):  # it has ended
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("{"):
                return _accepted(dict(json.loads(line)))
        raise InputError(f"the process of {self.name} ended: {self._last_words()}.")

    def _last_words(self) -> str:
        code = self._process.wait()
        if code == -KILL:
            return "it was killed, as when it needs more memory than there is"
        self._errors.seek(0)
        return last_line(self._errors.read().decode(errors="replace"), f"exit code {code}")
