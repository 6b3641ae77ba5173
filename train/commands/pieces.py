"""How commands print tokens: as one line each, and in colour on a terminal."""

import sys
from collections.abc import Iterable

from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.utf8 import visible

COLOURS = tuple(f"black on bright_{name}" for name in ("cyan", "yellow", "green", "magenta", "blue", "red"))


def label(tokenizer: Tokenizer, token: int) -> str:
    """A token as one line: spaces as ␣; control characters and bytes of partial characters are escaped."""
    return visible(tokenizer.decode_bytes([token])).replace(" ", "␣") or f"id {token}"


def print_coloured(pieces: Iterable[tuple[str, int | None]], between: str = "") -> None:
    """Print pieces, each with the number of its colour or None.

    Elsewhere than on a terminal nothing is coloured, and `between` separates the pieces.
    """
    if not sys.stdout.isatty():
        print(between.join(piece for piece, _ in pieces).rstrip(" "))
        return
    from rich.console import Console  # only here: elsewhere nothing of `jaxllm tokenizer` needs rich
    from rich.text import Text

    coloured = Text()
    for piece, number in pieces:
        coloured.append(piece, None if number is None else COLOURS[number % len(COLOURS)])
    Console().print(coloured)
