"""Where words of a prompt are among its tokens, for `jaxllm attention --from WORD --to WORD`."""

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from jaxllm.tokenizers import Tokenizer, WordTokenizer
from jaxllm.utils.errors import InputError, shown


class TokenSpan(NamedTuple):
    """The tokens of a word: the positions of the first and of the last."""

    first: int
    last: int


def choose_spans(sources: Sequence[TokenSpan], targets: Sequence[TokenSpan]) -> tuple[TokenSpan, TokenSpan]:
    """One occurrence of each of two words, out of all in the order of the prompt.

    The source is its last. The target is the last before the source; if there is none, the last that ends with the
    source at the latest, which is the source itself where the words are the same; else the last.

    >>> orange, apples = [TokenSpan(5, 6)], [TokenSpan(0, 0), TokenSpan(3, 3), TokenSpan(9, 9)]
    >>> choose_spans(orange, apples)
    (TokenSpan(first=5, last=6), TokenSpan(first=3, last=3))
    """
    source = sources[-1]
    before = [span for span in targets if span.last < source.first]
    until = [span for span in targets if span.last <= source.last]
    return source, (before or until or targets)[-1]


def spans_of(option: str, word: str, prompt: str, pieces: Sequence[bytes]) -> list[TokenSpan]:
    """The occurrences of a word in the order of the prompt, whose tokens are `pieces` (`token_bytes`).

    A word is not part of a longer one. Where it is only such a part, occurrences count that begin and end with a token.
    Raises InputError, which names the option, where there is none.
    """
    wanted = word.strip()
    if not wanted:
        raise InputError(f"{option} is {shown(word)}, which is no word; give one of the prompt.")
    text, ends = b"".join(pieces).decode("utf-8", "surrogateescape"), list(accumulate(map(len, pieces)))
    found = []
    for match in re.finditer(re.escape(wanted), text):
        first, last = (len(text[:i].encode("utf-8", "surrogateescape")) for i in match.span())
        span = TokenSpan(sum(end <= first for end in ends), sum(end < last for end in ends))
        whole = _is_whole(text, *match.span())
        if whole or (last in ends and first in (0, *ends)):
            found.append((whole, span))
    if not found:
        raise InputError(_missing(option, wanted, prompt))
    return [span for whole, span in found if whole] or [span for _, span in found]


def token_bytes(tokenizer: Tokenizer, ids: Sequence[int], begin_token: int | None) -> list[bytes]:
    """The bytes that each token has in the prompt: none for a begin token; words have a space before them."""
    space = b" " if isinstance(tokenizer, WordTokenizer) else b""
    pieces = [space + tokenizer.decode_bytes([i]) for i in ids]
    return pieces if begin_token is None else [b"", *pieces[1:]]


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] is no part of a longer word."""

    def joined(i: int) -> bool:
        return 0 < i < len(text) and bool(re.fullmatch(r"\w\w", text[i - 1 : i + 1]))

    return not joined(start) and not joined(end)


def _missing(option: str, word: str, prompt: str) -> str:
    """The message for a word without a token."""
    like = re.search(re.escape(word), prompt, re.IGNORECASE)
    if like and like.group() == word and _is_whole(prompt, *like.span()):
        return f"{option} is {shown(word)}, which is in the prompt, but not among the tokens that it becomes."
    hint = f", {shown(like.group())}" if like and like.group() != word else ""
    return f"{option} is {shown(word)}, but the prompt has no such word; give one as it is written there{hint}."
