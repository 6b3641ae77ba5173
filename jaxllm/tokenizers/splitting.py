"""The split of text into pieces, within which merges happen, and how often each piece occurs in a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import regex

from jaxllm.tokenizers.base import to_utf8
from jaxllm.tokenizers.parts import PART, cut
from jaxllm.tokenizers.patterns import GPT2_PATTERN, PATTERNS, regex_of
from jaxllm.utils.errors import InputError
from jaxllm.utils.processes import in_processes

__all__ = ["FAST_PATTERN", "GPT2_PATTERN", "PART", "count_pieces", "cut", "split_pieces"]

FAST_PATTERN = PATTERNS["gpt2"].regex


def split_pieces(text: str, pattern: str = "gpt2") -> Iterator[str]:
    """The pieces within which merges happen, by a pattern of PATTERNS or a regular expression.

    Raises InputError for a lone surrogate, and for a regular expression that Python has another form for.

    >>> list(split_pieces("It's  here"))
    ['It', "'s", ' ', ' here']
    """
    to_utf8(text)
    return (match.group() for match in compiled(pattern).finditer(text))


@cache
def compiled(pattern: str) -> "regex.Pattern[str]":
    """A pattern for Python."""
    try:
        return regex.compile(regex_of(pattern))
    except regex.error as error:
        raise InputError(f"the tokenizer's pattern is no regular expression of Python's: {error}.") from None


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
        counts.update(compiled("gpt2").findall(text))
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
