"""A long text in chunks that can be encoded one by one: their ids, joined, are the ids of the whole text."""

from collections.abc import Callable, Collection, Iterable, Iterator

import regex

from jaxllm.tokenizers.special_tokens import finder

CHUNK = 2**20  # characters: enough work for one message to another process
LONGEST_CHUNK = 2**24  # characters; a longer stretch without a boundary is cut there
# Boundaries: in no split pattern does a piece continue over one. (\x1c to \x1f are white space for Python but not for
# Unicode. A piece of punctuation may continue with new lines and slashes, but not beyond them.)
_VISIBLE = r"[^\s\x1c-\x1f]"
_BEFORE = rf"{_VISIBLE}(?= )|[\p{{L}}\p{{N}}](?=\n)"
BOUNDARIES = regex.compile(rf"{_BEFORE}|{_VISIBLE}\n(?=[^\s\x1c-\x1f/])")
BEFORE_SPACES = regex.compile(_BEFORE)  # those that are not within white space either, nor at its end


def chunk_text(
    text: str, size: int | None = None, boundaries: "regex.Pattern[str]" = BOUNDARIES, whole: Collection[str] = ()
) -> Iterator[str]:
    """The text in chunks of `size` characters (CHUNK by default) or a little more, each up to the end of a boundary.

    By default a boundary is where a piece and a word end in every split pattern: before a space that follows another
    character, and before or after a new line that does. No chunk ends within or right after one of the texts in
    `whole`, even if such a text may only begin at the end of `text`. A text without a boundary stays whole.

    >>> list(chunk_text("two words  and more", 5))
    ['two words', '  and', ' more']
    """
    size = CHUNK if size is None else size
    longest = max(map(len, whole), default=0)
    start = at = 0
    while len(text) - start > size and (found := boundaries.search(text, max(start + size - 1, at))):
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
    return any((name := finder(names).match(text, i)) and name.end() >= at for i in begins)


def rechunk(texts: Iterable[str], chunk: Callable[[str], Iterator[str]], longest: int = LONGEST_CHUNK) -> Iterator[str]:
    """The texts joined, in the chunks of `chunk`; where it finds no boundary, in chunks of about `longest` characters.

    A chunk is never empty. Memory holds one text and one chunk at a time.
    """
    rest = ""
    for text in texts:
        *complete, rest = chunk(rest + text)
        yield from complete
        if len(rest) >= longest:
            yield rest
            rest = ""
    if rest:
        yield rest
