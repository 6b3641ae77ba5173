"""The errors that a user can cause and mend."""

MOST_CHARACTERS = 2000  # of a message; what comes out of a file may have millions


def printable(text: str, most: int = 200) -> str:
    r"""A text out of a file, or of another program, for a message: one line, nothing that a terminal would obey.

    >>> printable("a\n\x1b[31m")
    'a\\n\\x1b[31m'
    """
    kept = most - 3
    text = text if len(text) <= most else f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(ValueError):
    """Wrong input. The message is one sentence: the value, the limit, the remedy.

    The command line prints it and exits with code 2; a traceback is never shown for it. Whatever of a file is in it,
    it is one line that no terminal obeys.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, MOST_CHARACTERS))


class NonFiniteError(ArithmeticError):
    """A model computed NaN or infinity. The message is one sentence; the command line prints it and exits with 1."""


class Note(UserWarning):
    """What a user should know of and nothing stops for; the command line prints it as `note: ...`."""
