"""Notes of the library, for whoever reads a terminal."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from jaxllm.utils.errors import Note


@contextmanager
def notes_printed() -> Iterator[None]:
    """Within it a Note is a line on standard error, as often as it comes; other warnings are what they were."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", Note)
        usual = warnings.showwarning

        def show(
            message: Warning | str, category: type[Warning], filename: str, lineno: int,
            file: TextIO | None = None, line: str | None = None,
        ) -> None:  # fmt: skip
            if issubclass(category, Note):
                print(f"note: {message}", file=sys.stderr)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield
