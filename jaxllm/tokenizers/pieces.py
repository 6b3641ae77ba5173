"""The split of text into pieces, within which merges happen, and how often each piece occurs in a corpus."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from functools import cache

import regex

from jaxllm.tokenizers.base import any_of, to_utf8
from jaxllm.tokenizers.patterns import GPT2_PATTERN, PATTERNS
from jaxllm.tokenizers.workers import in_processes

__all__ = ["FAST_PATTERN", "GPT2_PATTERN", "PART", "count_pieces", "cut", "split_pieces", "uncut"]

FAST_PATTERN = PATTERNS["gpt2"].regex
PART = 2**20  # characters that are worth a message to another process
MOST_MOVES = 1000  # of one cut; no text that is in use needs more than one or two
# No pattern has a piece that goes on here. (\x1c to \x1f are white space to Python but not to Unicode; marks may have
# the new line after them in their piece, but nothing beyond.)
_MARK = r"[^\s\x1c-\x1f]"
_CUT = regex.compile(rf"{_MARK}(?= )|[\p{{L}}\p{{N}}](?=\n)|{_MARK}\n(?={_MARK})")


def split_pieces(text: str, pattern: str = "gpt2") -> Iterator[str]:
    """The pieces within which merges happen, by a pattern of PATTERNS. Raises InputError for a lone surrogate.

    >>> list(split_pieces("It's  here"))
    ['It', "'s", ' ', ' here']
    """
    to_utf8(text)
    return (match.group() for match in compiled(pattern).finditer(text))


@cache
def compiled(pattern: str) -> "regex.Pattern[str]":
    """A pattern of PATTERNS for Python."""
    return regex.compile(PATTERNS[pattern].regex)


def cut(text: str, size: int = PART) -> Iterator[str]:
    """The text in parts of `size` characters or a little more, cut only where a piece or a word ends in any case.

    That is before the space that follows another character, and before or after such a new line. (A text without white
    space stays whole.)

    >>> list(cut("two words  and more", 5))
    ['two words', '  and', ' more']
    """
    start = 0
    while len(text) - start > size and (found := _CUT.search(text, start + size - 1)):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def uncut(parts: Iterable[str], names: Collection[str]) -> Iterator[str]:
    """The parts of a text with each cut that lies within one of the names moved to before that name.

    So a tokenizer that finds the names in any text finds the same ones in the parts as in the whole text.

    >>> list(uncut(["ab c", " d e"], ["c d"]))
    ['ab ', 'c d e']
    """
    if not names:
        yield from parts
        return
    longest, found = max(map(len, names)), regex.compile(any_of(names))
    before = ""
    for part in parts:
        text, at = before + part, len(before) if len(part) >= longest else 0  # a short part may end within a name
        for _ in range(MOST_MOVES):
            starts = range(max(at - longest + 1, 0), at)
            inside = next((i for i in starts if (match := found.match(text, i)) and match.end() > at), None)
            if inside is None:
                break
            at = inside
        if at:
            yield text[:at]
        before = text[at:]
    if before:
        yield before


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
