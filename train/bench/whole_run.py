"""A whole training process of either side: its seconds from start to end, and its validation losses on the way."""

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError, Stopped
from .process import kill_group, last_line

PAUSE_S = 0.02  # between two looks at what a process has written
Clock = Callable[[], float]  # seconds since a process was started


@dataclass(frozen=True)
class WholeRun:
    """A process that has trained: its seconds, and its validation losses by the seconds at which each was there."""

    seconds: float
    curve: tuple[tuple[float, float], ...]  # (seconds, loss), at least one

    def seconds_to(self, loss: float) -> float | None:
        """When the validation loss was first at most `loss`; None if it never was."""
        return next((seconds for seconds, reached in self.curve if reached <= loss), None)

    @property
    def lowest(self) -> float:
        """The lowest validation loss."""
        return min(loss for _, loss in self.curve)

    @property
    def loss(self) -> float:
        """The last validation loss."""
        return self.curve[-1][1]


class Tail:
    """The lines that are new in a file that another process writes."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def lines(self) -> list[str]:
        """The whole lines since the last call; none of a file that is not there yet."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
        except FileNotFoundError:
            return []
        whole = new[: new.rfind(b"\n") + 1]  # the rest of a line is still to be written
        self._read += len(whole)
        return whole.decode(errors="replace").splitlines()


def run_watched(
    name: str, command: list[str], environment: Mapping[str, str], folder: Path | None, output: Path,
    watch: Callable[[Clock], None],
) -> float:  # fmt: skip
    """The seconds from starting a process to its end. It runs in `folder`, by default the current one.

    Its standard output is the file `output`. `watch` is called many times a second, and once after the end. Raises
    RunError with its last words for a process that fails.
    """
    with output.open("wb") as out, tempfile.TemporaryFile() as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, text=True, env=dict(environment), cwd=folder,
            start_new_session=True,  # Ctrl-C reaches the parent only
        )  # fmt: skip
        try:
            while process.poll() is None:
                watch(lambda: time.perf_counter() - start)
                time.sleep(PAUSE_S)
            seconds = time.perf_counter() - start
        finally:
            kill_group(process)
            code = process.wait()
        watch(lambda: seconds)
        if code:
            errors.seek(0)
            words = last_line(errors.read().decode(errors="replace"), f"exit code {code}")
            raise RunError(f"the process of {name} ended: {words}.")
    return seconds


@contextmanager
def termination_raised() -> Iterator[None]:
    """Raise Stopped for a SIGTERM, so that no process and no temporary folder of a round is left."""
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Stopped("SIGTERM ended the bench", signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
