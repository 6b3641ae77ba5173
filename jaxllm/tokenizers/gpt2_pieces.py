r"""Counting the pieces of GPT-2's pattern without matching it: `Counter(pre_tokenize.split_pieces(text))`, fast.

Where a piece starts depends on what kind of character stands there, on its two neighbours and, after an apostrophe, on
the next two. So the starts in a long text are found by comparing arrays. Pieces of up to 15 bytes are counted as one or
two 64-bit integers, longer ones as Python's bytes.
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
WORD, WORDS = 8, 2  # bytes of a word; the most words of a piece that is counted in integers


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
    """How often each piece occurs. Takes about 30 bytes for each character. Raises InputError for a lone surrogate."""
    after_last = WORD * WORDS  # texts without characters, so that the last pieces too are followed by words to read
    raw = SEPARATOR.join([*map(to_utf8, texts), *[b""] * (after_last + 1)])
    characters = SURROGATE.join([*texts, *[""] * (after_last + 1)]).encode("utf-32-le", "surrogatepass")
    starts, kind = piece_starts(np.frombuffer(characters, "<u4"))
    units = np.frombuffer(raw, np.uint8)
    offsets = np.flatnonzero((units & 0xC0) != 0x80)[starts]  # of characters in bytes
    lengths = np.diff(offsets, append=len(raw))
    offsets, lengths = offsets[kind != BETWEEN], lengths[kind != BETWEEN]
    counts: dict[bytes, int] = {}
    for n in range(1, WORDS + 1):
        chosen = np.flatnonzero((lengths >= WORD * (n - 1)) & (lengths < WORD * n))
        counts |= _count_in_words(units, offsets[chosen], lengths[chosen], n)
    long = np.flatnonzero(lengths >= WORD * WORDS)
    ends = offsets[long] + lengths[long]
    counts |= Counter([raw[i:j] for i, j in zip(offsets[long].tolist(), ends.tolist(), strict=True)])
    return Counter(counts)


def _count_in_words(units: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, n: int) -> dict[bytes, int]:
    """How often each of these pieces occurs, all of which fit into `n` words with a byte left.

    A piece becomes `n` integers: its bytes, then zeros, and its length in the last byte.
    """
    words = np.lib.stride_tricks.sliding_window_view(units, WORD).view("<u8")[:, 0]
    columns = [words[offsets + WORD * i] for i in range(n)]
    lowest = np.array([256**i - 1 for i in range(WORD)], "<u8")
    columns[-1] = columns[-1] & lowest[lengths - WORD * (n - 1)] | lengths.astype("<u8") << np.uint64(8 * WORD - 8)
    if n == 1:
        columns[0].sort()  # without an order, because that is several times as fast
    else:
        order = np.lexsort(columns)
        columns = [column[order] for column in columns]
    differs = np.logical_or.reduce([np.diff(column, prepend=~column[:1]) != 0 for column in columns])
    first = np.flatnonzero(differs)
    padded = np.stack([column[first] for column in columns], axis=1).view(f"S{WORD * n}")[:, 0].tolist()
    counts = np.diff(first, append=len(differs)).tolist()
    return {piece[: piece[-1]]: count for piece, count in zip(padded, counts, strict=True)}
