"""The errors that a user can cause and fix, and what their messages are made of."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

MOST_CHARACTERS = 2000  # of a message; a value out of a file may have millions


def printable(text: str, most: int = 200) -> str:
    r"""A text out of a file, or of another program, for a message: one line without terminal control characters.

    >>> printable("a\n\x1b[31m")
    'a\\n\\x1b[31m'
    """
    kept = most - 3
    text = text if len(text) <= most else f"{text[: kept // 2]}...{text[-(kept - kept // 2) :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(value: Any, most: int = 80) -> str:
    """A shortened `repr` for a message: a value out of a file may have a million characters, or digits.

    >>> shown("x" * 1000, 20)
    "'xxxxxxx...xxxxxxxx'"
    """
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print an integer of over 4,300 digits
        text = "a number of thousands of digits"
    except RecursionError:
        text = "a value nested too deeply"
    return printable(text, most)


def nearest(name: str, valid: Iterable[str]) -> str:
    """The names closest to a mistyped one, as the end of a sentence."""
    valid = list(valid)
    close = difflib.get_close_matches(name, valid, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"valid names are {', '.join(valid)}."


def listed(names: Iterable[Any], most: int = 12) -> str:
    """The first of some names, and how many more there are, for a message; "" without names.

    >>> listed("abc", 2)
    "'a', 'b' and 1 more"
    """
    names = list(names)
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more


class InputError(ValueError):
    """Wrong input. The message is one sentence with the value, the limit and the fix.

    The command line prints it without a traceback and exits with code 2. Whatever the message quotes from a file, it is
    one line without terminal control characters.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message, MOST_CHARACTERS))


class NonFiniteError(ArithmeticError):
    """A model computed NaN or infinity. The message is one sentence; the command line prints it and exits with 1."""


class Note(UserWarning):
    """Something the user should know that stops nothing; the command line prints it as `note: ...`."""


@contextmanager
def as_input_error(path: object, what: str) -> Iterator[None]:
    """Turn the errors that reading damaged content raises into one InputError: the file at `path` is no `what`."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no {what}: {type(error).__name__}, {printable(str(error))}.") from None
