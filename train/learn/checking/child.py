"""The parent's side of `runner`: starts it, gives it a job, reads its answers, and ends it when its time is over."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError, printable

START_S = 120  # for importing PyTorch or JAX from a slow disk
MOST_BYTES = 2**28  # of one answer
ROOT = Path(__file__).parents[3]


class Ended(Exception):
    """The process ended, or was ended, before its answer: "never ends" or "ended with exit code 3"."""


class Child:
    """A process that runs the learner's functions. As a context manager it ends the process."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._answers: queue.Queue[bytes | None] = queue.Queue()

    def __enter__(self) -> "Child":
        package = str(__package__)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        }
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            # -P: the learner's folder, in which the process works, must not hide modules of Python
            [sys.executable, "-P", "-m", f"{package}.runner"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, cwd=self._job["folder"], env=environment, start_new_session=True,
        )  # fmt: skip
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._write)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
        for thread in self._threads:  # their pipes end with the process
            thread.join()
        assert self._process.stdout
        self._process.stdout.close()
        self._errors.close()

    def _write(self) -> None:
        assert self._process.stdin
        with contextlib.suppress(OSError):  # it has ended
            self._process.stdin.write(json.dumps(self._job).encode())
            self._process.stdin.close()

    def _read(self) -> None:
        """In a thread: a read from a pipe cannot be given a time limit on every system."""
        assert self._process.stdout
        with contextlib.suppress(OSError, ValueError):
            while line := self._process.stdout.readline(MOST_BYTES):
                self._answers.put(line)
        self._answers.put(None)

    def answer(self, seconds: float, of: float) -> dict[str, Any] | None:
        """The next answer, within the seconds that are left `of` so many; None at the end. Raises Ended."""
        try:
            line = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise Ended(f"does not end within {of:g} seconds") from None
        if line is None:
            code = self._process.wait()
            raise Ended(
                f"ended the process, by signal {-code}" if code < 0 else f"ended the process, with exit code {code}"
            )
        try:
            answer = dict(json.loads(line))
        except (ValueError, TypeError):
            raise Ended("damaged the connection to the check, so nothing more is known of it") from None
        return None if answer.get("finished") else answer

    def answers(self, seconds: float) -> Iterator[dict[str, Any]]:
        """All answers; each file has so many seconds for its import and each function for its calls.

        Raises Ended, and InputError if the library of the language cannot be imported.
        """
        self._wait_for_start()
        end = time.monotonic() + seconds
        while (answer := self.answer(max(0, end - time.monotonic()), seconds)) is not None:
            if "imported" in answer or "done" in answer:
                end = time.monotonic() + seconds
            yield answer

    def _wait_for_start(self) -> None:
        try:
            self.answer(START_S, START_S)
        except Ended as ended:
            reason = self._last_words() or str(ended)
            raise InputError(f"a course in {self._job['language']} cannot be checked: its process {reason}.") from None

    def _last_words(self) -> str:
        """The last line that the process wrote as an error, as the end of a sentence."""
        self._process.kill()
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read()[-2000:].decode(errors="replace").splitlines()]
        last = next((line for line in reversed(lines) if line), "")
        return f"ends with {printable(last).rstrip('.')}" if last else ""
