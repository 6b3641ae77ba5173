"""Notes: lines on standard error about what a user may want to know, although nothing failed."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from jaxllm.utils.errors import Note


def print_note(text: object) -> None:
    """Print a line on standard error."""
    print(f"note: {text}", file=sys.stderr)


def print_cut_prompt(what: str, n_tokens: int, read: int, context: int) -> None:
    """Print a note on a prompt that is longer than the context."""
    print_note(
        f"{what} has {n_tokens:,} tokens, but the model reads only the last {read:,}, because its context holds "
        f"{context:,}; shorten it to choose what is read"
    )


@contextmanager
def notes_printed() -> Iterator[None]:
    """Print each Note that the library warns of as a line, every time. Other warnings are shown as usual."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if issubclass(category, Note):
                print_note(message)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
