"""How commands print tokens: as one line each, and in colour on a terminal."""

import sys
import unicodedata
from collections.abc import Iterable

from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.utf8 import visible

COLOURS = tuple(f"black on bright_{name}" for name in ("cyan", "yellow", "green", "magenta", "blue", "red"))


def label(tokenizer: Tokenizer, token: int) -> str:
    """A token as one line: spaces as ␣; control characters and bytes of partial characters are escaped."""
    return visible(tokenizer.decode_bytes([token])).replace(" ", "␣") or f"id {token}"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters two, marks on the character before them none."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def cut(text: str, most: int) -> str:
    """A text of at most so many columns and characters, which ends in … where it was longer."""
    if len(text) <= most and columns(text) <= most:
        return text
    kept = text[:most]
    while columns(kept) >= most:
        kept = kept[:-1]
    return f"{kept}…"


def print_coloured(pieces: Iterable[tuple[str, int | None]], between: str = "") -> None:
    """Print pieces, each with the number of its colour or None.

    Elsewhere than on a terminal nothing is coloured, and `between` separates the pieces.
    """
    if not sys.stdout.isatty():
        print(between.join(piece for piece, _ in pieces))
        return
    from rich.console import Console  # only here: elsewhere nothing of `jaxllm tokenizer` needs rich
    from rich.text import Text

    coloured = Text()
    for piece, number in pieces:
        coloured.append(piece, None if number is None else COLOURS[number % len(COLOURS)])
    Console().print(coloured)
