"""The slips of encoding and decoding in piece 3: of the order of merges, and of bytes."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ..piece import Slip
from .byte_pair_slips import Pair, merged, units_of


def varied_encode(
    text: str,
    merges: Sequence[Pair],
    *,
    order: str = "learned",
    first: int = 256,
    way: str = "left",
    units: str = "bytes",
) -> list[int]:
    """`encode` with the mistakes that the keywords choose."""
    ids = units_of(text, units)
    ranks = {(left, right): first + i for i, (left, right) in enumerate(merges)}
    if order in ("learned", "reversed"):
        for pair in ranks if order == "learned" else reversed(ranks):
            ids = merged(ids, pair, ranks[pair], way)
        return ids
    if order == "one pass":
        return _one_pass(ids, ranks)
    while order in ("by place", "latest") and (possible := [pair for pair in pairwise(ids) if pair in ranks]):
        if order == "latest":
            pair = max(possible, key=ranks.__getitem__)
            ids = merged(ids, pair, ranks[pair], "left")
        else:
            place = list(pairwise(ids)).index(possible[0])
            ids[place : place + 2] = [ranks[possible[0]]]
    return _longest(ids, merges, first) if order == "longest" else ids


def _one_pass(ids: list[int], ranks: dict[Any, int]) -> list[int]:
    """Each pair of neighbours that was learned is replaced, but what arises is not merged again."""
    out: list[int] = []
    while ids:
        width = 2 if tuple(ids[:2]) in ranks else 1
        out.append(ranks[tuple(ids[:2])] if width == 2 else ids[0])
        ids = ids[width:]
    return out


def _longest(ids: list[int], merges: Sequence[Pair], first: int) -> list[int]:
    """From the left, the longest token that fits."""
    tokens = {bytes([i]): i for i in range(256)} | {t: first + i for i, t in enumerate(_tokens(merges)[256:])}
    rest, out = bytes(ids), []
    while rest:
        width = max(n for n in range(1, len(rest) + 1) if rest[:n] in tokens)
        out.append(tokens[rest[:width]])
        rest = rest[width:]
    return out


def _tokens(merges: Sequence[Pair], swapped: bool = False) -> list[bytes]:
    tokens = [bytes([i]) for i in range(256)]
    for left, right in merges:
        tokens.append(tokens[right] + tokens[left] if swapped else tokens[left] + tokens[right])
    return tokens


def varied_decode(
    ids: Sequence[int], merges: Sequence[Pair], *, first: int = 256, swapped: bool = False, text: str = "UTF-8",
    errors: str = "replace", levels: int | None = None,
) -> str:  # fmt: skip
    """`decode` with the mistakes that the keywords choose."""
    if levels == 0:
        return "".join(map(chr, ids))
    if levels == 1:
        parts = [part for i in ids for part in (merges[i - 256] if i >= 256 else (i,))]
        return b"".join(bytes([i]) for i in parts if i < 256).decode(errors="replace")
    tokens = _tokens(merges, swapped)
    strings = [tokens[i + 256 - first if i >= first else i] for i in ids if i + 256 - first < len(tokens)]
    if text == "latin-1":
        return b"".join(strings).decode("latin-1")
    if text == "each alone":
        return "".join(string.decode(errors=errors) for string in strings)
    return b"".join(strings).decode(errors=errors)


ENCODE_SLIPS = (
    Slip(
        "merges-by-place",
        "merges the leftmost pair that was learned, whichever it is",
        "Merges have ranks, and an early one goes before a late one wherever they stand. Otherwise a text is split in "
        "another way than in training.",
        "Two merges are possible: which comes first?",
        partial(varied_encode, order="by place"),
    ),
    Slip(
        "longest-token-first",
        "takes the longest token from the left, again and again",
        "That is greedy matching, as WordPiece does it. Byte-pair encoding repeats the merges in the order learned.",
        "Do you look for tokens, or make merges?",
        partial(varied_encode, order="longest"),
    ),
    Slip(
        "merges-reversed",
        "makes the merges from the last to the first",
        "A late merge is made of early ones, so it cannot happen before them. The order is the one of learning.",
        "Which merge is made first?",
        partial(varied_encode, order="reversed"),
    ),
    Slip(
        "latest-merge-first",
        "makes the merge that was learned last, wherever one is possible",
        "The earliest merge comes first, as in training. Otherwise a text is split in another way than the one "
        "learned from.",
        "Two merges are possible: which comes first?",
        partial(varied_encode, order="latest"),
    ),
    Slip(
        "one-pass",
        "merges bytes once, but not what arises from a merge",
        "A long token is several merges, each built on the one before. After a merge its new id has neighbours too.",
        "Can a token of three bytes arise?",
        partial(varied_encode, order="one pass"),
    ),
    Slip(
        "no-merges",
        "equals the bytes of the text",
        "The merges have not been used. Each would make the list of ids shorter.",
        "Where do the merges come in?",
        partial(varied_encode, order="none"),
    ),
    Slip(
        "merged-at-one-place",
        "makes each merge at its first place only",
        "The other places keep the old pair. One merge replaces all of them.",
        "How many places does one merge change?",
        partial(varied_encode, way="first"),
    ),
    Slip(
        "merged-from-the-right",
        "replaces pairs from right to left",
        'In "aaa" the two ways leave the single a at different ends. Replacement goes from the left.',
        'Which two of "aaa" become one id?',
        partial(varied_encode, way="right"),
    ),
    Slip(
        "second-id-kept",
        "keeps the second id of a pair after its new id",
        "The new id stands for both. The search must go on after the pair, not at its second id.",
        'How many ids should "ab" have after (a, b) is merged?',
        partial(varied_encode, way="second kept"),
    ),
    Slip(
        "ids-from-255",
        "has new ids that begin at 255",
        "The bytes are the ids 0 to 255, which are 256 ids. The first merge would share an id with the byte 255.",
        "How many different bytes are there?",
        partial(varied_encode, first=255),
    ),
    Slip(
        "code-points",
        "starts from characters, not from bytes",
        "The code points of other alphabets are larger than 255 and collide with the new ids. Bytes write every text.",
        'How many ids does "é" have before any merge?',
        partial(varied_encode, units="code points"),
    ),
)

DECODE_SLIPS = (
    Slip(
        "each-token-alone",
        "decodes each token by itself",
        "A character of several bytes may lie across two tokens, and neither half is UTF-8. Join the bytes first.",
        'Which bytes has "é", and are they always in one token?',
        partial(varied_decode, text="each alone"),
    ),
    Slip(
        "byte-as-character",
        "takes each byte as a character",
        'That is Latin-1, where "é" is one byte. In UTF-8 a character has one to four bytes.',
        "How do bytes become text?",
        partial(varied_decode, text="latin-1"),
    ),
    Slip(
        "ids-as-characters",
        "takes the ids as code points",
        "Above 127 an id is no character, and above 255 it is a merge. Each id stands for a string of bytes.",
        "Which bytes does the id 256 stand for?",
        partial(varied_decode, levels=0),
    ),
    Slip(
        "opened-once",
        "opens a merge once, and loses the merges within",
        "The two parts of a merge may be merges themselves. They must be opened until only bytes are left.",
        "Which bytes belong to a merge of a merge?",
        partial(varied_decode, levels=1),
    ),
    Slip(
        "parts-exchanged",
        "has the two parts of a merge in the wrong order",
        "The first id of the pair is the left part. Its bytes come first.",
        "Which part of a pair is written first?",
        partial(varied_decode, swapped=True),
    ),
    Slip(
        "ids-from-255",
        "reads new ids as if they began at 255",
        "Each id then gives the token after its own. The bytes are the ids 0 to 255.",
        "Which merge does the id 256 stand for?",
        partial(varied_decode, first=255),
    ),
    Slip(
        "bad-bytes-dropped",
        "leaves out bytes that are not UTF-8",
        "Ids that end inside a character are usual while a model writes. U+FFFD in that place shows that something "
        "is missing.",
        "What does decoding do with an incomplete character?",
        partial(varied_decode, errors="ignore"),
    ),
)
