"""Pre-tokenization: splitting text into pieces, within which merges happen, and counting the pieces of a corpus."""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache

import regex

from jaxllm.tokenizers.chunks import CHUNK, chunk_text
from jaxllm.tokenizers.gpt2_pieces import count_gpt2_pieces
from jaxllm.tokenizers.split_patterns import regex_of
from jaxllm.utils.errors import InputError
from jaxllm.utils.processes import in_threads
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


def count_pieces(texts: Iterable[str], threads: int = 1) -> Counter[bytes]:
    """How often each piece of GPT-2's pattern occurs in the texts; the same for any number of `threads`.

    The texts are read once, a few at a time. A piece never spans two texts. Raises InputError for a lone surrogate.
    """
    total: Counter[bytes] = Counter()
    for counts in in_threads(count_gpt2_pieces, _gathered(texts), threads):
        total.update(counts)
    return total


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
