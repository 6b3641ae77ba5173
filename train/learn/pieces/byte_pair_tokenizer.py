"""Piece 3: byte-pair encoding. Its slips are in `byte_pair_slips` and `byte_pair_coding_slips`."""

from collections.abc import Iterator, Sequence

import numpy as np

from jaxllm.tokenizers import textbook

from ..piece import Arguments, Function, Piece
from .byte_pair_coding_slips import DECODE_SLIPS, ENCODE_SLIPS
from .byte_pair_slips import LEARN_SLIPS

Merges = Sequence[tuple[int, int]]
TEXT = "low lower lowest: the newest and the widest, aaaa"
_WORDS = ("low", "lower", "lowest", "new", "newer", "aaa", "aaaa", "abab", "bab", "née", "語語", "the", "hat")


def learn_merges(text: str, n_merges: int) -> list[tuple[int, int]]:
    """The pairs in the order in which they are merged, of a text that is one piece."""
    return textbook.learn_merges({text.encode(): 1}, n_merges)


def encode(text: str, merges: Merges) -> list[int]:
    """The bytes of a text, with the merges made one after the other, in the order in which they were learned.

    `textbook.encode_piece` looks for the bytes of tokens; across a whole text two merges can make the same bytes, and
    then only the order of the merges decides.
    """
    ids = list(text.encode())
    for new, (left, right) in enumerate(merges, 256):
        ids = textbook.merge(ids, (left, right), new)
    return ids


def decode(ids: Sequence[int], merges: Merges) -> str:
    """The text of the ids. Bytes that are not UTF-8 become U+FFFD."""
    tokens = textbook.tokens_of(merges)
    return b"".join(tokens[i] for i in ids).decode(errors="replace")


def _texts(rng: np.random.Generator) -> Iterator[str]:
    for n in (3, 6, 12):
        yield " ".join(rng.choice(_WORDS, n))


def _learn_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for text, n_merges in (
        ("abab", 1), ("aaab", 1), ("ba", 1), ("baca", 1), ("abcab", 2), ("aaaaa", 2), ("aaabab", 1), ("aabaab", 3),
        ("a b a b", 2),
        ("éé", 2), ("aaabdaaabac", 3), ("ab", 3), ("", 2), (TEXT, 12),
    ):  # fmt: skip
        yield {"text": text, "n_merges": n_merges}
    for text in _texts(rng):
        yield {"text": text, "n_merges": 9}


def _encode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    two = [(97, 98), (256, 99)]
    for text, merges in (
        ("ab", two), ("abcab", two), ("aaa", [(97, 97)]), ("abcd", [(98, 99), (97, 98)]), ("abc", [(97, 98), (98, 99)]),
        ("abc", [(98, 99), (97, 256)]), ("abcd", [(98, 99), (97, 98), (256, 100)]), ("bcab", [(97, 98), (98, 99)]),
        ("aabab", [(97, 98), (97, 256)]), ("é", [(195, 169)]), ("", two), ("zz", two),
        ("abcabd", [(98, 99), (97, 256), (97, 98), (258, 100)]),
    ):  # fmt: skip
        yield {"text": text, "merges": merges}
    for text in _texts(rng):
        yield {"text": text + " aaaaa", "merges": learn_merges(TEXT + text, 17)}


def _decode_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    two = [(97, 98), (256, 99)]
    for ids, merges in (
        ([97], two), ([256], two), ([257, 98], two), ([195, 169], []), ([195], []), ([100, 169, 257], two),
        ([256, 97, 257], [(195, 169), (256, 32)]), ([], two),
    ):  # fmt: skip
        yield {"ids": ids, "merges": merges}
    for text in _texts(rng):
        merges = learn_merges(TEXT + text, 17)
        yield {
            "ids": [int(i) for i in rng.integers(256, 256 + len(merges), size=4)] + encode(text, merges),
            "merges": merges,
        }


PIECE = Piece(
    "byte_pair_tokenizer",
    "Byte-pair tokenizer",
    "The pair of neighbouring ids that occurs most often becomes a new id, again and again: frequent strings become "
    "tokens.",
    (
        Function("learn_merges", learn_merges, _learn_cases, LEARN_SLIPS),
        Function("encode", encode, _encode_cases, ENCODE_SLIPS),
        Function("decode", decode, _decode_cases, DECODE_SLIPS),
    ),
)
