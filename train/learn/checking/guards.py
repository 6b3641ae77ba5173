"""What the learner's functions may not do in the child process: files, sockets, other programs, much output.

The guards protect from accidents and tell the learner; they are no prison for hostile code.
"""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

MOST_HEARD = 200  # characters of what a function prints
SYSTEM = ("/proc", "/sys", "/dev/null", "/dev/urandom", "/dev/random")
FORBIDDEN = {  # events of sys.audit and what the sentence says
    "socket": "opens a socket",
    "subprocess": "starts a process",
    "os.system": "starts a process",
    "os.exec": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
    "os.fork": "starts a process",
    "os.forkpty": "starts a process",
    "os.startfile": "starts a process",
    "os.remove": "removes a file",
    "os.rename": "renames a file",
    "os.truncate": "writes a file",
    "os.link": "writes a file",
    "os.symlink": "writes a file",
    "os.mkdir": "makes a folder",
    "os.rmdir": "removes a folder",
    "os.kill": "sends a signal",
    "shutil": "writes files",
}


class Refused(PermissionError):
    """What a function may not do here."""


class Heard(io.TextIOBase):
    """Takes the place of standard output: keeps the beginning of what is printed, and drops the rest."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text[: max(0, MOST_HEARD - len(self.text))]
        return len(text)

    def writable(self) -> bool:
        return True


class Guards:
    """Refuses forbidden events while `watched`, and remembers the first, since a function may catch the exception."""

    def __init__(self, folder: Path) -> None:
        # Libraries import modules of theirs at the first use.
        self._readable = [os.path.realpath(place) for place in (sys.prefix, sys.base_prefix, *sys.path) if place]
        self._folder = os.path.realpath(folder)
        self._watching = False
        self.touched: str | None = None
        self.heard = Heard()
        sys.addaudithook(self._audit)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While the learner's code runs."""
        self.touched, self.heard, self._watching = None, Heard(), True
        old = sys.stdin, sys.stdout, sys.stderr
        sys.stdout = sys.stderr = self.heard
        try:
            yield
        finally:
            self._watching = False
            sys.stdin, sys.stdout, sys.stderr = old

    def _audit(self, event: str, details: Any) -> None:
        if not self._watching:
            return
        does = FORBIDDEN.get(event) or FORBIDDEN.get(event.partition(".")[0])
        if event == "open":
            does = self._opened(*details)
        if does and not self._is_of_an_import():
            self.touched = self.touched or does
            raise Refused(f"a function {does}")

    def _is_of_an_import(self) -> bool:
        """Whether the event happens while a library is imported, and not in the learner's own lines."""
        frame: FrameType | None = sys._getframe()
        while frame and os.path.dirname(frame.f_code.co_filename) != self._folder:
            if frame.f_code.co_filename.startswith("<frozen importlib"):
                return True
            frame = frame.f_back
        return False

    def _opened(self, path: Any, mode: Any, flags: int) -> str | None:
        """What is wrong with opening that file."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None  # a descriptor, whose opening was seen before
        name = os.fsdecode(path)
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND)
        if writes and name != os.devnull:
            return f"writes the file {name}"
        real = os.path.realpath(name)
        if _within(real, self._folder):
            allowed = real.endswith((".py", ".pyc"))  # an import of an earlier piece
        else:
            allowed = real.startswith(SYSTEM) or any(_within(real, place) for place in self._readable)
        return None if allowed else f"reads the file {name}"


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
