"""What `jaxllm data pairs` prints: the first input-target pairs of a text, the target of each token under it."""

import shutil
import sys
from collections.abc import Iterator, Sequence

from jaxllm.data import input_target_pairs
from jaxllm.tokenizers import Tokenizer

from ..pieces import columns, cut, label, print_coloured

WIDTH = 98  # columns of a line, where it is not a narrower terminal's
MARGIN = 9  # columns of the names of the rows
LONGEST = 40  # columns of a token; of a longer one the beginning is shown
Piece = tuple[str, int | None]  # a text, and the number of its colour


def count_pairs(n_tokens: int, context_length: int, stride: int) -> int:
    """How many pairs so many tokens make."""
    return len(range(0, n_tokens - context_length, stride))


def show_pairs(
    tokenizer: Tokenizer, ids: Sequence[int], context_length: int, stride: int, top: int, source: str
) -> None:  # fmt: skip
    """Print the first `top` pairs of the ids, and how many there are; `source` says where the ids come from.

    A token has the same colour wherever it is. Raises InputError as `input_target_pairs` does.
    """
    needed = (top - 1) * stride + context_length + 1  # tokens of the pairs that are shown
    shown = ids if stride < 1 else ids[:needed]
    inputs, targets = input_target_pairs(shown, context_length, stride)
    after = f"each {stride:,} token{'s' * (stride != 1)} after the one before"
    print(f"{source}: {len(ids):,} tokens; inputs of {context_length:,}, {after}")
    colours: dict[int, int] = {}
    for number, pair in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True), start=1):
        print(f"pair {number:,}")
        for row in _lines(tokenizer, *pair, colours):
            print_coloured(row[:-1])  # nothing stands after its last gap
    total = count_pairs(len(ids), context_length, stride)
    print(f"pairs shown: {len(inputs):,} of {total:,}")


def _lines(
    tokenizer: Tokenizer, inputs: Sequence[int], targets: Sequence[int], colours: dict[int, int]
) -> Iterator[list[Piece]]:
    """Lines of inputs, each with the line of their targets, as many columns in a line as its width holds."""
    rows: tuple[list[Piece], list[Piece]] = ([("  input  ", None)], [("  target ", None)])
    used, most = MARGIN, _width()
    for column in zip(inputs, targets, strict=True):
        texts = [cut(label(tokenizer, i), LONGEST) for i in column]
        width = max(map(columns, texts))
        if used + width + 1 > most and used > MARGIN:
            yield from rows
            rows, used = ([(" " * MARGIN, None)], [(" " * MARGIN, None)]), MARGIN
        for row, text, i in zip(rows, texts, column, strict=True):
            row += [(text, colours.setdefault(i, len(colours))), (" " * (width + 1 - columns(text)), None)]
        used += width + 1
    yield from rows


def _width() -> int:
    return min(WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else WIDTH
