"""What ends a run with exit code 1."""


class DivergedError(RuntimeError):
    """The loss is no longer a finite number; the message is one sentence with the step and the remedy."""
