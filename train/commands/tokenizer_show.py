"""`jaxllm tokenizer show`: which merges are used most, and a text in its pieces."""

import sys
from collections import Counter

from rich.console import Console
from rich.text import Text

from jaxllm.tokenizers import BPETokenizer, Tokenizer
from jaxllm.tokenizers.merges import merged_from
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import visible

from .tokenizer import open_tokenizer, read_text

COLOURS = ("black on bright_cyan", "black on bright_yellow", "black on bright_green", "black on bright_magenta")


def show_command(path: str, text: str | None, file: str | None, top: int) -> None:
    """Prints the first merges, the most frequent ones in training; or a text's pieces and its commonest tokens."""
    if top < 0:
        raise InputError(f"--top is {top}, but it must be 0 or more.")
    tokenizer = open_tokenizer(path)
    if text is None and file is None:
        merges = _merges(tokenizer)
        first = "merges" if merges else "tokens"
        print(f"{tokenizer.kind} tokenizer with {tokenizer.vocab_size:,} ids; its first {first}:")
        for i in (merges or list(range(tokenizer.vocab_size)))[:top]:
            print(f"{i:>8}  {_made(tokenizer, i)}")
        return
    text = read_text(file) if text is None else text
    ids = tokenizer.encode(text)
    _print_pieces(tokenizer, ids)
    n_bytes = len(text.encode())
    each = f", {n_bytes / len(ids):.3f} bytes per token" if ids else ""
    print(f"{len(ids):,} tokens, {n_bytes:,} bytes{each}")
    for i, count in Counter(ids).most_common(top):
        print(f"{count:>8}  {_made(tokenizer, i)} {i}")


def _merges(tokenizer: Tokenizer) -> list[int]:
    """The ids of tokens that were made by merging, the first one first."""
    if not isinstance(tokenizer, BPETokenizer):
        return []
    return [tokenizer.ranks[token] for token in tokenizer.tokens if len(token) > 1]


def _made(tokenizer: Tokenizer, i: int) -> str:
    """`[ th][e] -> [ the]`, or the token alone."""
    token = tokenizer.decode_bytes([i])
    learned = isinstance(tokenizer, BPETokenizer) and tokenizer.ranks.get(token) == i  # no special or added token
    parts = merged_from(token, tokenizer.ranks) if isinstance(tokenizer, BPETokenizer) and learned else []
    before = "".join(f"[{visible(part)}]" for part in parts) + " -> " if len(parts) > 1 else ""
    return f"{before}[{visible(token)}]"


def _print_pieces(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Coloured on a terminal, elsewhere parted by bars; line breaks are seen and made."""
    pieces = [visible(tokenizer.decode_bytes([i])).replace("\\n", "\\n\n") for i in ids]
    if not sys.stdout.isatty():
        print("|".join(pieces))
        return
    coloured = Text()
    for number, piece in enumerate(pieces):
        coloured.append(piece, COLOURS[number % len(COLOURS)])
    Console().print(coloured)
