"""What C++ libraries print, on its way to the terminal.

JAX's coordination service reports what it cannot go on after by printing it and aborting the process. Here its text is
read from the process's own standard error, so that one sentence can stand in its place.
"""

import ctypes
import os
import re
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

FATAL = "Terminating process because the JAX distributed service detected fatal errors"
ABOUT_IT = ("coordination_service", FATAL)  # lines that come before the fatal one, or are it
WHOLE = "*** Check failure"  # follows the text of a fatal line
WITHIN_S = 1.0  # the lines come together
NOISE = re.compile(r"\[Gloo\] Rank \d+ is connected |W\d{4} .*coordination_service\.cc|=== Source Loc|external/xla|$")

Fatal = Callable[[str, int], None]  # takes the text, and the descriptor of standard error


@contextmanager
def native_output_read(fatal: Fatal) -> Iterator[None]:
    """Within it C++ prints to standard error, without Gloo's greetings; `fatal` is called before it aborts the process.

    `fatal` is called in a thread of its own, with the text that JAX's coordination service aborts with.
    """
    kept = [os.dup(1), os.dup(2)]
    python = sys.stdout, sys.stderr
    reader, writer = os.pipe()
    for stream, descriptor in zip(python, (1, 2), strict=True):
        stream.flush()
        os.dup2(writer, descriptor)
    os.close(writer)
    sys.stdout, sys.stderr = (_reopened(*both) for both in zip(python, kept, strict=True))
    thread = threading.Thread(target=_read, args=(reader, kept[1], fatal), name="native-output", daemon=True)
    thread.start()
    wait_before_aborting(True)
    try:
        yield
    finally:
        wait_before_aborting(False)
        for ours, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            ours.flush()
            os.dup2(kept[descriptor - 1], descriptor)  # the last writer of the pipe is gone
        thread.join(WITHIN_S)
        sys.stdout, sys.stderr = python
        for descriptor in (*kept, reader):
            os.close(descriptor)


def wait_before_aborting(wait: bool) -> None:
    """Have a thread that calls abort() wait, for the others to report why, before the process dies.

    The handler of SIGABRT is C's `sleep`, which takes the number of the signal, 6, for seconds.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p) if wait else None)  # None: the default


def _reopened(stream: TextIO, descriptor: int) -> TextIO:
    return open(  # noqa: SIM115 - it stays open as long as the descriptor
        descriptor, "w", buffering=1, encoding=stream.encoding, errors=stream.errors, closefd=False
    )


def _read(reader: int, error: int, fatal: Fatal) -> None:
    text = ""
    while read := os.read(reader, 2**16):
        text += read.decode(errors="replace")
        if any(word in text for word in ABOUT_IT):
            text += _rest(reader)
        if FATAL in text:
            fatal(text, error)
        *lines, text = text.split("\n")
        shown = "".join(line + "\n" for line in lines if not NOISE.match(line))
        os.write(error, shown.encode())
    os.write(error, text.encode())


def _rest(reader: int) -> str:
    """What follows within a moment, or up to the end of a fatal text."""
    text, end = "", time.monotonic() + WITHIN_S
    while WHOLE not in text and select.select([reader], [], [], max(0, end - time.monotonic()))[0]:
        if not (read := os.read(reader, 2**16)):
            break
        text += read.decode(errors="replace")
    return text
