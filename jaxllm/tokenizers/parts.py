"""A long text in parts that can be encoded one by one, to the ids of the whole."""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache

import regex

PART = 2**20  # characters that are worth a message to another process
LONGEST = 2**24  # characters without a place to cut; a longer stretch is cut there all the same
# No pattern has a piece that goes on here. (\x1c to \x1f are white space to Python but not to Unicode; marks may have
# new lines and slashes after them in their piece, but nothing beyond.)
_MARK = r"[^\s\x1c-\x1f]"
ENDS = regex.compile(rf"{_MARK}(?= )|[\p{{L}}\p{{N}}](?=\n)|{_MARK}\n(?=[^\s\x1c-\x1f/])")


def cut(
    text: str, size: int | None = None, ends: "regex.Pattern[str]" = ENDS, whole: Collection[str] = ()
) -> Iterator[str]:
    """The text in parts of `size` characters (PART by default) or a little more, cut only where `ends` matches to.

    By default that is where a piece or a word ends in any case: before the space that follows another character, and
    before or after such a new line. No part ends within one of the texts in `whole`, or right after it, whatever may
    follow the text. (A text without a place to cut stays whole.)

    >>> list(cut("two words  and more", 5))
    ['two words', '  and', ' more']
    """
    size = PART if size is None else size
    longest = max(map(len, whole), default=0)
    start = at = 0
    while len(text) - start > size and (found := ends.search(text, max(start + size - 1, at))):
        at = found.end()
        if at + longest > len(text):
            break
        if not (whole and _is_within(text, at, frozenset(whole), longest)):
            yield text[start:at]
            start = at
    yield text[start:]


def _is_within(text: str, at: int, names: frozenset[str], longest: int) -> bool:
    """Whether one of the names begins before `at` and ends there or later."""
    begins = range(max(at - longest, 0), at)
    return any((name := _any(names).match(text, i)) and name.end() >= at for i in begins)


@lru_cache(16)
def _any(names: frozenset[str]) -> "regex.Pattern[str]":
    """The longest of the names."""
    return regex.compile(r"\L<names>", names=names)


def in_parts(texts: Iterable[str], cut: Callable[[str], Iterator[str]], longest: int = LONGEST) -> Iterator[str]:
    """The texts joined, and cut again as `cut` does, or after `longest` characters without a place to cut."""
    rest = ""
    for text in texts:
        *whole, rest = cut(rest + text)
        yield from whole
        if len(rest) >= longest:
            yield rest
            rest = ""
    if rest:
        yield rest
