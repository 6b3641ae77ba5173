"""Byte-pair encoding as one would explain it: the same ids as the fast path, in a few plain lines.

Read this first. `jaxllm.tokenizers.bpe_training` learns the same merges without recounting, and tiktoken encodes;
the tests hold them to this page. Gage 1994; Sennrich et al. 2016; on bytes, Radford et al. 2019.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]


def count_pairs(pieces: Mapping[tuple[int, ...], int]) -> Counter[Pair]:
    """How often each two ids stand side by side.

    >>> count_pairs({(97, 98, 97, 98): 1})
    Counter({(97, 98): 2, (98, 97): 1})
    """
    counts: Counter[Pair] = Counter()
    for piece, times in pieces.items():
        for pair in pairwise(piece):
            counts[pair] += times
    return counts


def merge(ids: Sequence[int], pair: Pair, new: int) -> list[int]:
    """Replace each occurrence of the pair, left to right.

    >>> merge([97, 97, 97, 98], (97, 97), 256)
    [256, 97, 98]
    """
    out: list[int] = []
    i = 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


def learn_merges(piece_counts: Mapping[bytes, int], n_merges: int) -> list[Pair]:
    """Join the most frequent pair, again and again; of equally frequent ones the pair with the lowest ids.

    Stops early when no pair is left.

    >>> learn_merges({b"aaabdaaabac": 1}, 3)
    [(97, 97), (97, 98), (256, 257)]
    """
    pieces = {tuple(piece): times for piece, times in piece_counts.items()}
    merges: list[Pair] = []
    while len(merges) < n_merges and (counts := count_pairs(pieces)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        new = 256 + len(merges)
        merges.append(best)
        pieces = {tuple(merge(piece, best, new)): times for piece, times in pieces.items()}
    return merges


def encode_piece(piece: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Split into bytes, then join the neighbours whose joined bytes have the lowest rank, until none have one.

    A piece that is a token is that token; where merges were learned, they come to it as well.

    >>> ranks = {bytes([i]): i for i in range(256)} | {b"aa": 256, b"ab": 257, b"aaab": 258}
    >>> encode_piece(b"aaabdaaabac", ranks)
    [258, 100, 258, 97, 99]
    """
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while True:
        joined = [(ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks]
        if not joined:
            return [ranks[part] for part in parts]
        _, i = min(joined)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
