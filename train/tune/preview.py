"""Examples as they are trained on, printed before a run: what is learned is coloured."""

import sys
from collections.abc import Iterator, Sequence
from itertools import groupby

from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import printable
from jaxllm.utils.utf8 import visible

from ..pieces import print_coloured
from .fitting import Group
from .rendered import Rendered

MOST_CHARACTERS = 400  # of a piece
NAMES = ("chosen", "rejected")


def print_preview(examples: Sequence[Group], tokenizer: Tokenizer, labels: Sequence[str] = ()) -> None:
    """Print each example's text. What is learned is coloured, or stands in brackets where there is no terminal."""
    for group in examples:
        for name, one in zip(NAMES if len(group) > 1 else ("",), group, strict=True):
            print(f"{one.where}{', ' * bool(name)}{name}:")
            print_coloured(preview_pieces(one, tokenizer, labels, brackets=not sys.stdout.isatty()))


def preview_pieces(
    one: Rendered, tokenizer: Tokenizer, labels: Sequence[str] = (), brackets: bool = False
) -> Iterator[tuple[str, int | None]]:
    """The pieces of a text that are learned, with the colour 0, and those that are not, with None.

    A text with a label ends in the label, which is what is learned at its last token. Line ends and bytes of partial
    characters are escaped. A long piece is shortened in its middle.
    """
    learned = one.learned & (one.label is None)
    for is_learned, run in groupby(zip(learned.tolist(), one.ids.tolist(), strict=True), key=lambda pair: pair[0]):
        text = printable(visible(tokenizer.decode_bytes([token for _, token in run])), MOST_CHARACTERS)
        yield (f"[{text}]" if is_learned and brackets else text), (0 if is_learned else None)
    if one.label is not None:
        label = visible(labels[one.label].encode())
        yield " ", None
        yield (f"[{label}]" if brackets else label), 0
