r"""A regular expression of the user's that splits text into pieces, matched by tiktoken.

tiktoken silently drops text that its pattern does not match, and panics where the pattern matches nothing at all. So
each piece must begin where the one before ended (`\G`) and hold at least one character. Then the first missing piece
ends the ids, and the bytes of the ids show where. A pattern that takes too many steps ends at tiktoken's limit of them.
"""

import math
import re
from functools import lru_cache
from typing import Any

import tiktoken

from jaxllm.tokenizers.split_patterns import PATTERNS
from jaxllm.utils.errors import InputError, shown

# Limits that keep the compiled pattern small: its characters, and the product of its {counts}.
MOST_CHARACTERS, MOST_REPEATED = 1000, 1000
SINGLE_BYTES = {bytes([b]): b for b in range(256)}
# Every pattern must match these characters of all kinds. Others are checked in each text.
PROBE = (
    "\0\t\n\r\x1b !\"#$'()+,-./09:;<>@AZ[\\]^_`az{|}~\x7f\x85\xa0\xad²½éßǅʰ"
    "\u0301\u0967\u200d\u2028\u3000東🙂\ue000\U0010ffff"
)


def check_pattern(pattern: Any) -> None:
    """Raises InputError unless it is a name in PATTERNS, or a regular expression that matches every character."""
    if isinstance(pattern, str) and pattern in PATTERNS:
        return
    wrong = _wrong(pattern) if isinstance(pattern, str) else "it is not text"
    if wrong:
        raise InputError(
            f"pattern is {shown(pattern)}, but it must be one of {', '.join(PATTERNS)}, or a regular expression that "
            f"matches every character: {wrong}."
        )


@lru_cache(16)
def _wrong(pattern: str) -> str:
    """What is wrong with a regular expression, as the end of a sentence; empty if nothing is."""
    if len(pattern) > MOST_CHARACTERS:
        return f"it has {len(pattern):,} characters, more than {MOST_CHARACTERS:,}"
    if _repeated(pattern) > MOST_REPEATED:
        return f"its counts in braces make {_repeated(pattern):,} when multiplied, more than {MOST_REPEATED:,}"
    try:
        for regex in (pattern, for_tiktoken(pattern)):
            encoding = tiktoken.Encoding("probe", pat_str=regex, mergeable_ranks=SINGLE_BYTES, special_tokens={})
    except ValueError as error:
        return f"it is not valid ({error})"
    try:
        encode_checked(encoding, PROBE)
    except InputError as error:
        return str(error).removesuffix(".")
    return ""


def _repeated(pattern: str) -> int:
    """The product of the largest counts in all braces."""
    bare = re.sub(r"(?s)\\(?:[pPxuU]\{[^}]*\}|.)", "", pattern)
    counts = (map(int, re.findall(r"[0-9]+", inside)) for inside in re.findall(r"\{([^}]*)", bare))
    return math.prod(max(1, *found, 1) for found in counts)


def for_tiktoken(pattern: str) -> str:
    """The regular expression that tiktoken matches: that of a name in PATTERNS, or a custom one with these rules."""
    return PATTERNS[pattern].regex if pattern in PATTERNS else rf"\G(?:{pattern})(?!\G)"


def encode_checked(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """The ids by a custom pattern. Raises InputError where it does not match a character or takes too many steps."""
    raw = text.encode()
    try:
        ids = encoding.encode(text, disallowed_special=())
    except ValueError as error:
        raise InputError(f"the tokenizer's pattern gives up on the text ({error}); simplify the pattern.") from None
    rest = raw[len(encoding.decode_bytes(ids)) :].decode()
    if rest:
        raise InputError(
            f"the tokenizer's pattern does not match {rest[0]!r} at position {len(text) - len(rest):,} of the text; "
            r"let it end with |[\s\S]."
        )
    return ids
