"""Finding special and added tokens in a text, before the text between them is tokenized.

Some tokens take the white space beside them: `strips` holds the side, one of SIDES, of each. (lstrip and rstrip of
Hugging Face tokenizers; Phi-3's and Phi-4's tokens)
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import groupby
from types import MappingProxyType

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.utf8 import to_utf8

END_OF_TEXT = "<|endoftext|>"
# Special tokens that separate documents in published models: GPT-2 and Qwen, Llama 3, Llama 2 and Mistral, Gemma.
DOCUMENT_ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")
NO_TOKENS: Mapping[str, int] = MappingProxyType({})
SIDES = ("left", "right", "both")
NO_STRIPS: Mapping[str, str] = MappingProxyType({})
# Unicode's White_Space; Python's own also has \x1c to \x1f.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def document_end(special_tokens: Mapping[str, int], end: str | None) -> int | None:
    """The id of the special token that separates documents: `end`, or else the first of DOCUMENT_ENDS; None without."""
    names = DOCUMENT_ENDS if end is None else (end, *DOCUMENT_ENDS)
    return next((special_tokens[name] for name in names if name in special_tokens), None)


def split_at_tokens(
    text: str, special_tokens: Mapping[str, int], allowed: Collection[str], added: Mapping[str, int] = NO_TOKENS
) -> list[str | int]:
    """The text split at the `allowed` special tokens and at all added tokens, each of which becomes its id.

    The leftmost token is found first and, among tokens that begin at one place, the longest, as in Hugging Face
    tokenizers. Raises InputError for a lone surrogate and for an allowed name that is not a special token.

    >>> split_at_tokens("a<b>", {"<b>": 7, "<": 8}, ["<b>"])
    ['a', 7]
    >>> split_at_tokens("a<b>c", {"<b>": 7}, ["<b>"], {"<b>c": 9})
    ['a', 9]
    """
    to_utf8(text)
    for name in allowed:
        if name not in special_tokens:
            raise InputError(f"{name!r} is not a special token; there are {', '.join(special_tokens)}.")
    ids = {**added, **{name: special_tokens[name] for name in allowed}}
    parts = finder(frozenset(ids)).split(text) if ids else [text]
    return [ids[part] if i % 2 else part for i, part in enumerate(parts) if part]


def split_at_added(parts: Iterable[str | int], added: Mapping[str, int]) -> Iterator[str | int]:
    """The parts that `split_at_tokens` returned, with their texts split at the added tokens too."""
    for part in parts:
        yield from split_at_tokens(part, NO_TOKENS, (), added) if added and isinstance(part, str) else [part]


def without_spaces(parts: Iterable[str | int], strips: Mapping[int, str]) -> list[str | int]:
    """As many parts, without the white space that the tokens beside it take; `strips` holds sides by id.

    >>> without_spaces(["a ", 7, "  b", 7, " "], {7: "right"})
    ['a ', 7, 'b', 7, '']
    """
    given = [*parts]
    sides = ["" if isinstance(part, str) else strips.get(part, "") for part in given]
    kept = [*given]
    for i, part in enumerate(given):
        if isinstance(part, str):
            after = part.lstrip(WHITE_SPACE) if i > 0 and sides[i - 1] in ("right", "both") else part
            taken = i + 1 < len(given) and sides[i + 1] in ("left", "both")
            kept[i] = after.rstrip(WHITE_SPACE) if taken else after
    return kept


def check_strips(strips: Mapping[str, str], names: Collection[str]) -> None:
    """Raises InputError for a name that is not among the `names`, and for a side that is not one of SIDES."""
    for name, side in strips.items():
        if name not in names or side not in SIDES:
            raise InputError(
                f"strips has {shown(name)} = {shown(side)}, but it must name a special or added token, and one of "
                f"{', '.join(SIDES)}."
            )


@lru_cache(16)
def finder(names: frozenset[str]) -> re.Pattern[str]:
    """The regular expression that matches the longest of the names, in one group."""
    return re.compile(f"({any_of(names)})")


def any_of(names: Collection[str]) -> str:
    """The regular expression that matches any of these texts, and the longest where several begin alike.

    It is a prefix tree. A list of alternatives would be tried one by one, which is slow for Gemma's 6,400 added tokens.

    >>> any_of(["<b>", "<bc>", "x"])
    '(?:<b(?:>|c>)|x)'
    """
    return _prefix_tree(sorted(set(names))) if names else "(?!)"


def _prefix_tree(names: list[str], depth: int = 100) -> str:
    if depth == 0:  # many texts, each a prefix of the next: alternatives, the longest first
        return f"(?:{'|'.join(map(re.escape, reversed(names)))})"
    rest = names[1:] if names[0] == "" else names
    branches = []
    for _, group in groupby(rest, key=lambda name: name[0]):
        alike = list(group)
        prefix = os.path.commonprefix(alike)
        ends = [name[len(prefix) :] for name in alike]
        branches.append(re.escape(prefix) + (_prefix_tree(ends, depth - 1) if len(ends) > 1 else ""))
    return f"(?:{'|'.join(branches)})" + ("?" if rest is not names else "")
