r"""Counting the pieces of GPT-2's pattern without matching it: `Counter(pre_tokenize.split_pieces(text))`, fast.

Where a piece starts depends on what kind of character stands there, on its two neighbours and, after an apostrophe, on
the next two. So the starts in a long text are found by comparing arrays. A piece of up to 7 bytes is counted as one
64-bit integer; longer ones, about one in seven in English, are counted as Python's bytes.
"""

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import regex

from jaxllm.utils.utf8 import to_utf8

# Kinds of characters. A lone surrogate, which no text holds, is written between two texts.
BETWEEN, SPACE, LETTER, NUMBER, OTHER = range(5)
KINDS = regex.compile(r"(\p{Cs}+)|(\s+)|(\p{L}+)|(\p{N}+)|[^\s\p{L}\p{N}\p{Cs}]+")
SURROGATE, SEPARATOR = "\ud800", b"\xff"  # between two texts: in characters, and in the bytes of UTF-8
WORD = 8  # bytes read at the start of each piece


@cache
def kinds() -> np.ndarray:
    """The kind of each code point [0x110000] uint8, as `regex` knows them."""
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.empty(len(every), np.uint8)
    for run in KINDS.finditer(every):
        table[run.start() : run.end()] = OTHER if run.lastindex is None else run.lastindex - 1
    return table


def piece_starts(characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where pieces start, as indices into the code points [N], and the kind of the first character of each.

    The code points are those of texts with SURROGATE after each, three times after the last. Surrogates make pieces of
    the kind BETWEEN.
    """
    kind = kinds().take(characters)
    starts = np.empty(len(kind), bool)
    starts[0] = True
    np.not_equal(kind[1:], kind[:-1], out=starts[1:])
    # White space is one piece, without the last character where something visible follows: a space joins that.
    last_space = (kind[:-1] == SPACE) & (kind[1:] > SPACE)
    starts[:-1] |= last_space
    starts[1:] &= ~(last_space & (characters[:-1] == ord(" ")))
    _join_contractions(characters, starts)
    found = np.flatnonzero(starts)
    return found, kind[found]


def _join_contractions(characters: np.ndarray, starts: np.ndarray) -> None:
    """Make one piece of 's, 'd, 'm, 't, 'll, 've and 're wherever a piece starts with the apostrophe."""
    apostrophes = np.flatnonzero(starts & (characters == ord("'")))
    first, second = (characters[apostrophes + i] for i in (1, 2))
    short = np.isin(first, [ord(c) for c in "sdmt"])
    pairs = [(first == ord(a)) & (second == ord(b)) for a, b in ("ll", "ve", "re")]
    long = np.logical_or.reduce(pairs)
    starts[apostrophes[short | long] + 1] = False
    starts[apostrophes[short] + 2] = True
    starts[apostrophes[long] + 3] = True


def count_gpt2_pieces(texts: Sequence[str]) -> Counter[bytes]:
    """How often each piece occurs. Takes about 20 bytes for each character. Raises InputError for a lone surrogate."""
    raw = SEPARATOR.join([*map(to_utf8, texts), *[b""] * (WORD + 1)])
    characters = SURROGATE.join([*texts, *[""] * (WORD + 1)]).encode("utf-32-le", "surrogatepass")
    starts, kind = piece_starts(np.frombuffer(characters, "<u4"))
    units = np.frombuffer(raw, np.uint8)
    offsets = np.flatnonzero((units & 0xC0) != 0x80)[starts]  # of characters in bytes
    lengths = np.diff(offsets, append=len(raw))
    short = (lengths < WORD) & (kind != BETWEEN)
    long = np.flatnonzero((lengths >= WORD) & (kind != BETWEEN))
    counts = _count_short(units, offsets[short], lengths[short])
    begin = offsets[long]
    ends = begin + lengths[long]
    counts.update([raw[i:j] for i, j in zip(begin.tolist(), ends.tolist(), strict=True)])
    return counts


def _count_short(units: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> Counter[bytes]:
    """How often each piece of fewer than WORD bytes occurs: as an integer of its bytes, then zeros, then its length."""
    words = np.lib.stride_tricks.sliding_window_view(units, WORD).view("<u8")[:, 0]
    lowest = np.array([256**n - 1 for n in range(WORD)], np.uint64)
    keys = (words[offsets] & lowest[lengths]) | (lengths.astype(np.uint64) << np.uint64(8 * (WORD - 1)))
    unique, counts = np.unique(keys, return_counts=True)
    padded = unique.astype("<u8").view(f"S{WORD}").tolist()
    return Counter({piece[: piece[-1]]: n for piece, n in zip(padded, counts.tolist(), strict=True)})
