"""GPT-2's split of text into pieces, within which merges happen, and how often each piece occurs in a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator

import regex
from tiktoken_ext.openai_public import r50k_pat_str  # GPT2_PATTERN, written to match faster

from jaxllm.tokenizers.base import to_utf8
from jaxllm.tokenizers.workers import in_processes

# GPT-2's split: contractions, a word, number or run of marks with the space before it, white space.
# Merges never cross a piece. (openai/gpt-2, src/encoder.py)
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
FAST_PATTERN = r50k_pat_str
PART = 2**20  # characters that are worth a message to another process
_PIECE = regex.compile(FAST_PATTERN)
_CUT = regex.compile(r"[^\s\x1c-\x1f](?=[ \n])")  # \x1c to \x1f are white space to Python but not to Unicode


def split_pieces(text: str) -> Iterator[str]:
    """The pieces within which merges happen. Raises InputError for a lone surrogate.

    >>> list(split_pieces("It's  here"))
    ['It', "'s", ' ', ' here']
    """
    to_utf8(text)
    return (match.group() for match in _PIECE.finditer(text))


def cut(text: str, size: int = PART) -> Iterator[str]:
    """The text in parts of `size` characters or a little more, cut only where a piece or a word ends in any case.

    That is before the space or newline that follows another character. (A text without white space stays whole.)

    >>> list(cut("two words  and more", 5))
    ['two words', '  and', ' more']
    """
    start = 0
    while len(text) - start > size and (found := _CUT.search(text, start + size - 1)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def count_pieces(texts: Iterable[str], processes: int = 1) -> Counter[bytes]:
    """How often each piece occurs in the texts, which are read once, a few at a time; the same for any `processes`.

    Pieces do not reach over the end of a text. Raises InputError for a lone surrogate.
    """
    total: Counter[str] = Counter()
    for counts in in_processes(_count, _gathered(texts), processes):
        total.update(counts)
    return Counter({piece.encode(): count for piece, count in total.items()})


def _count(texts: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)
        counts.update(_PIECE.findall(text))
    return counts


def _gathered(texts: Iterable[str]) -> Iterator[list[str]]:
    """Large texts in parts, small ones together: lists of about PART characters."""
    together, length = [], 0
    for text in texts:
        for part in cut(text):
            together.append(part)
            length += len(part)
            if length >= PART:
                yield together
                together, length = [], 0
    if together:
        yield together
