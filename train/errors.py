"""The errors that end a run, or keep a file of it from being used."""

import signal
from collections.abc import Sequence
from traceback import FrameSummary

from jaxllm.utils.errors import InputError, printable


class RunError(RuntimeError):
    """A run cannot go on or cannot be saved. The message is one sentence with the step and the fix. Exit code 1."""


class DivergedError(RunError):
    """The loss, the gradient or a parameter is not finite."""


class NotSavedError(RunError):
    """A checkpoint could not be written. Earlier ones are unchanged."""


class DamagedError(InputError):
    """A file of a checkpoint is missing or has changed since it was written."""


class UserCodeError(Exception):
    """An exception in a user's own file. The message is its lines of that file, then the exception. Exit code 2."""

    def __init__(self, error: BaseException, frames: Sequence[FrameSummary]) -> None:
        lines = [f"  {frame.filename}, line {frame.lineno}, in {frame.name}: {frame.line}" for frame in frames]
        what = f"{type(error).__name__}: {printable(' '.join(str(error).split()), 500)}"
        super().__init__("\n".join(["an exception in the code that you gave:", *lines, what]))


class DroppedError(InputError):
    """A checkpoint was deleted because the run that is training has written newer ones."""


class Stopped(Exception):
    """A run was ended by a signal, after saving. The exit code is 128 + the signal's number, as in shells."""

    def __init__(self, message: str, signal_: signal.Signals) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_


def reason(error: BaseException) -> str:
    """An error's text on one line, of bounded length."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return printable(" ".join(text.split()))
