"""Ending a run by a signal: the first SIGINT or SIGTERM requests it, the second ends the process at once.

A Python handler runs only between bytecodes, so not during a long step. Instead, the C handler writes each signal to a
pipe as it arrives, and a thread reads the pipe.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """True once a signal has asked the run to end; `by` is that signal."""

    by: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.by is not None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Yields a Stop, which the first signal sets; the second ends the process with exit code 128 + its number.

    Outside the main thread, where Python allows no handlers, signals are left as they are.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    if hasattr(os, "set_blocking"):  # Python 3.11 on Windows has none, and needs none there
        os.set_blocking(writer, False)
    # A signal that is ignored, as in a shell's background job, stays ignored.
    handled = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, lambda *_: None) for number in handled}
    wakeup = signal.set_wakeup_fd(writer)
    threading.Thread(target=_listen, args=(reader, stop), daemon=True).start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(writer)  # ends the thread


def _listen(reader: int, stop: Stop) -> None:
    with open(reader, "rb", buffering=0) as pipe:
        while received := pipe.read(1):
            number = received[0]
            if number not in HANDLED:
                continue
            if stop:
                os._exit(128 + number)
            stop.by = signal.Signals(number)
            with suppress(OSError):  # standard error may be closed
                os.write(2, f"{stop.by.name}: ending after this step; once more ends at once\n".encode())
