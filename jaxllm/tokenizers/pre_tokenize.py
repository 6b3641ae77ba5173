"""Pre-tokenization: splitting text into pieces, within which merges happen, and counting the pieces of a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import regex

from jaxllm.tokenizers.chunks import CHUNK, chunk_text
from jaxllm.tokenizers.split_patterns import regex_of
from jaxllm.utils.errors import InputError
from jaxllm.utils.processes import in_processes
from jaxllm.utils.utf8 import to_utf8


def split_pieces(text: str, pattern: str = "gpt2") -> Iterator[str]:
    """The pieces of the text, by a pattern of PATTERNS or a regular expression.

    Raises InputError for a lone surrogate, and for a regular expression that Python's `regex` does not accept.

    >>> list(split_pieces("It's  here"))
    ['It', "'s", ' ', ' here']
    """
    to_utf8(text)
    return (match.group() for match in _compiled(pattern).finditer(text))


@cache
def _compiled(pattern: str) -> "regex.Pattern[str]":
    try:
        return regex.compile(regex_of(pattern))
    except regex.error as error:
        raise InputError(
            f"the tokenizer's pattern is not a regular expression that Python's regex accepts: {error}."
        ) from None


def count_pieces(texts: Iterable[str], processes: int = 1) -> Counter[bytes]:
    """How often each piece of GPT-2's pattern occurs in the texts; the same for any number of `processes`.

    The texts are read once, a few at a time. A piece never spans two texts. Raises InputError for a lone surrogate.
    """
    total: Counter[str] = Counter()
    for counts in in_processes(_count, _gathered(texts), processes):
        total.update(counts)
    return Counter({piece.encode(): count for piece, count in total.items()})


def _count(texts: list[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        to_utf8(text)
        counts.update(_compiled("gpt2").findall(text))
    return counts


def _gathered(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, long ones in chunks, in lists of about CHUNK characters."""
    together, length = [], 0
    for text in texts:
        for chunk in chunk_text(text):
            together.append(chunk)
            length += len(chunk)
            if length >= CHUNK:
                yield together
                together, length = [], 0
    if together:
        yield together
