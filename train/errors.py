"""What ends a run, or keeps a file from being used."""

import signal

from jaxllm.utils.errors import InputError, printable


class RunError(RuntimeError):
    """A run could not go on, or not be kept; the message is one sentence with the step and the remedy. Exit code 1."""


class DivergedError(RunError):
    """The loss, the gradient or a parameter is no longer a finite number."""


class NotSavedError(RunError):
    """A checkpoint could not be written; those before it are as they were."""


class DamagedError(InputError):
    """A file of a checkpoint is not what was written."""


class DroppedError(InputError):
    """A checkpoint is there no more, because the run that is training has written newer ones."""


class Stopped(Exception):
    """A signal asked the run to end, and it did, saved. Exit code 128 + its number, as shells have it."""

    def __init__(self, message: str, signal_: signal.Signals) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_


def reason(error: BaseException) -> str:
    """An error's text on one line, of bounded length; a storage's cause stands at its end."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return printable(" ".join(text.split()))
