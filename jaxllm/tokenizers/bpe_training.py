"""Learning byte-pair merges without recounting: `textbook.learn_merges`, fast.

All unique pieces lie one after another in one list of ids, one position a byte. A token of several bytes has its id at
its first and its last position, so both neighbours of a token are one look away, and a merge writes a few numbers at
each occurrence of its pair. Counts of pairs change only by what stands beside the merged pair.
"""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.tokenizers.textbook import Pair

BORDER, INSIDE = -1, -2  # between two pieces; where a token began that is now part of a longer one


def learn_merges(
    piece_counts: Mapping[bytes, int], n_merges: int, progress: Callable[[int], None] | None = None
) -> list[Pair]:
    """The first `n_merges` merges, or fewer when no pair is left; see `textbook.learn_merges`.

    `progress` is called with the number of merges so far. Memory is about 30 bytes for each byte of the unique pieces.
    """
    ids, counts = _lay_out(piece_counts)
    pairs = Pairs(ids, counts)
    pieces = Pieces(ids.tolist(), array("q", counts.tobytes()), [1] * 256)
    merges: list[Pair] = []
    while len(merges) < n_merges and (pair := pairs.pop_most_frequent()):
        merges.append(pair)
        new = 255 + len(merges)
        pieces.sizes.append(pieces.sizes[pair[0]] + pieces.sizes[pair[1]])
        pairs.update(pair, new, *_merge(pieces, pair, new, pairs.positions.pop(pair)))
        if progress:
            progress(len(merges))
    return merges


def _lay_out(piece_counts: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray]:
    """The pieces' ids [N] int32, with a BORDER before each piece and at the end; the count of each position's piece
    [N] int64."""
    lengths = np.fromiter(map(len, piece_counts), np.int64, len(piece_counts))
    ends = np.cumsum(lengths + 1)
    n = len(lengths) and int(ends[-1])
    inside = np.ones(n + 1, bool)
    inside[0] = inside[ends] = False
    ids, counts = np.full(n + 1, BORDER, np.int32), np.zeros(n + 1, np.int64)
    ids[inside] = np.frombuffer(b"".join(piece_counts), np.uint8)
    counts[inside] = np.repeat(np.fromiter(piece_counts.values(), np.int64, len(lengths)), lengths)
    return ids, counts


class Pieces(NamedTuple):
    """All pieces as merged so far: the id at each position, the count of its piece, the number of bytes of each id."""

    ids: list[int]
    counts: Sequence[int]
    sizes: list[int]


class Pairs:
    """How often each pair occurs, where it may begin, and which one is next.

    A pair's count only falls after the merge that made its newer id. So an entry of the heap is never too low, and the
    one on top is put back if its count is out of date. Positions are never removed; `_merge` checks each of them.
    """

    def __init__(self, ids: np.ndarray, counts: np.ndarray) -> None:
        starts = np.flatnonzero((ids[:-1] >= 0) & (ids[1:] >= 0))
        keys = ids[starts] * 256 + ids[starts + 1]
        order = np.argsort(keys, kind="stable")  # a pair's positions ascend, here and in every later list of them
        keys, starts = keys[order], starts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = np.add.reduceat(counts[starts], first).tolist() if len(first) else []
        found = [divmod(key, 256) for key in keys[first].tolist()]
        self.counts: dict[Pair, int] = dict(zip(found, sums, strict=True))
        self.positions: dict[Pair, Sequence[int]] = {
            pair: array("q", part.tobytes()) for pair, part in zip(found, np.split(starts, first[1:]), strict=False)
        }
        self._heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self._heap)

    def pop_most_frequent(self) -> Pair | None:
        """The next pair to merge: among equally frequent ones that with the lowest ids; None when no pair is left."""
        while self._heap:
            negative, pair = heapq.heappop(self._heap)
            if (count := self.counts[pair]) == -negative:
                del self.counts[pair]
                return pair
            self._push(pair, count)
        return None

    def _push(self, pair: Pair, count: int) -> None:
        if count:
            self.counts[pair] = count
            heapq.heappush(self._heap, (-count, pair))
        else:
            del self.counts[pair], self.positions[pair]

    def update(self, pair: Pair, new: int, before: "Neighbours", after: "Neighbours") -> None:
        """Count the pairs that came and went when `pair` became `new` between these neighbours."""
        a, b = pair
        for x, count in before.counts.items():
            if x != new:
                self._decrease((x, a), count)
                self._add((x, new), count, before.positions[x])
        doubled = before.counts.get(new, 0)  # both neighbours became new: "abab"
        for x, count in after.counts.items():
            self._decrease((b, x), count)
            self._add((new, x), count - doubled if x == a else count, after.positions[x])
        if doubled:
            self._add((new, new), doubled, before.positions[new])

    def _decrease(self, pair: Pair, count: int) -> None:
        if pair in self.counts:  # the merged pair itself, as in "aaa", is not
            self.counts[pair] -= count

    def _add(self, pair: Pair, count: int, positions: Sequence[int]) -> None:
        if count:
            self.positions[pair] = positions
            self._push(pair, count)


class Neighbours(NamedTuple):
    """The ids on one side of a merged pair: how often each occurs, and where the new pairs with them begin."""

    counts: defaultdict[int, int]
    positions: defaultdict[int, list[int]]


def _merge(pieces: Pieces, pair: Pair, new: int, positions: Sequence[int]) -> tuple[Neighbours, Neighbours]:
    """Write `new` over the pair at each of the positions where it still is, from left to right.

    Returns the neighbours before and after.
    """
    ids, counts, sizes = pieces
    (a, b), length = pair, sizes[new]
    half = sizes[a]
    before, after = (Neighbours(defaultdict(int), defaultdict(list)) for _ in range(2))
    (counts_before, positions_before), (counts_after, positions_after) = before, after
    for start in positions:
        middle, end = start + half, start + length
        if ids[start] != a or ids[middle] != b:
            continue
        ids[middle] = INSIDE
        ids[start] = ids[end - 1] = new
        x, y, n = ids[start - 1], ids[end], counts[start]
        if x >= 0:
            counts_before[x] += n
            positions_before[x].append(start - sizes[x])
        if y >= 0:
            counts_after[y] += n
            positions_after[y].append(start)
    return before, after
