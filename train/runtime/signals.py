"""Ending a run by a signal: the first SIGINT or SIGTERM asks for it, a second one ends the process at once.

A Python handler runs only when the interpreter gets its turn, which during a long step it does not; so a thread reads
the signals from a pipe, into which the C handler writes them the moment they come.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

HANDLED = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the run was asked to end, and by what."""

    by: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.by is not None


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within it the first signal sets what is yielded; the second ends the process with exit code 128 + its number.

    Outside the main thread, where Python allows no handlers, nothing is changed.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    # What is ignored, as in a shell's background job, stays so.
    heard = [number for number in HANDLED if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, lambda *_: None) for number in heard}
    wakeup = signal.set_wakeup_fd(writer)
    threading.Thread(target=_listen, args=(reader, stop), daemon=True).start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        os.close(writer)  # which ends the thread


def _listen(reader: int, stop: Stop) -> None:
    with open(reader, "rb", buffering=0) as pipe:
        while came := pipe.read(1):
            if came[0] not in HANDLED:
                continue
            if stop:
                os._exit(128 + came[0])
            stop.by = signal.Signals(came[0])
            with suppress(OSError):  # standard error may be gone
                os.write(2, f"{stop.by.name}: ending after this step; once more ends at once\n".encode())
