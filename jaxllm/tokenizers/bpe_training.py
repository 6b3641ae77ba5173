"""Learning byte-pair merges without recounting: `textbook.learn_merges`, fast.

minbpe counts every occurrence anew; Hugging Face's and rustbpe's trainers visit only the pieces that hold the merged
pair, and rewrite each. Here all unique pieces lie in one row of ids, and a merge writes a few numbers at each
occurrence: the first and the last place of a token hold its id, so that either neighbour is one look away.
"""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxllm.tokenizers.textbook import Pair

BORDER, INSIDE = -1, -2  # between two pieces; where a token began that another has taken in


def learn_merges(
    piece_counts: Mapping[bytes, int], n_merges: int, progress: Callable[[int], None] | None = None
) -> list[Pair]:
    """The first `n_merges` merges, or fewer when no pair is left; ids from 256 on. See `textbook.learn_merges`.

    `progress` is told the merges done. Memory is about 30 bytes for each byte of the unique pieces.
    """
    ids, times = _lay_out(piece_counts)
    pairs = Pairs(ids, times)
    row = Row(ids.tolist(), array("q", times.tobytes()), [1] * 256)
    merges: list[Pair] = []
    while len(merges) < n_merges and (pair := pairs.most_frequent()):
        merges.append(pair)
        row.sizes.append(row.sizes[pair[0]] + row.sizes[pair[1]])
        pairs.replace(pair, 255 + len(merges), *_merge(row, pair, 255 + len(merges), pairs.places.pop(pair)))
        if progress:
            progress(len(merges))
    return merges


def _lay_out(piece_counts: Mapping[bytes, int]) -> tuple[np.ndarray, np.ndarray]:
    """The row [N] int32, a BORDER before each piece and at the end; how often the piece at each place occurs, int64."""
    lengths = np.fromiter(map(len, piece_counts), np.int64, len(piece_counts))
    ends = np.cumsum(lengths + 1)
    n = len(lengths) and int(ends[-1])
    inside = np.ones(n + 1, bool)
    inside[0] = inside[ends] = False
    ids, times = np.full(n + 1, BORDER, np.int32), np.zeros(n + 1, np.int64)
    ids[inside] = np.frombuffer(b"".join(piece_counts), np.uint8)
    times[inside] = np.repeat(np.fromiter(piece_counts.values(), np.int64, len(lengths)), lengths)
    return ids, times


class Row(NamedTuple):
    """The pieces as they stand, the times of each place, and the number of bytes of each token."""

    ids: list[int]
    times: Sequence[int]
    sizes: list[int]


class Pairs:
    """How often each pair occurs, where it begins, and which is next.

    After the merge that made its newer token a pair only ever gets rarer, so the heap's entries are never too low: the
    one on top is put back if it is out of date. Places are not taken back either; `_merge` looks whether each holds.
    """

    def __init__(self, ids: np.ndarray, times: np.ndarray) -> None:
        starts = np.flatnonzero((ids[:-1] >= 0) & (ids[1:] >= 0))
        keys = ids[starts] * 256 + ids[starts + 1]
        order = np.argsort(keys, kind="stable")  # places of a pair in ascending order, here and ever after
        keys, starts = keys[order], starts[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        sums = np.add.reduceat(times[starts], first).tolist() if len(first) else []
        found = [divmod(key, 256) for key in keys[first].tolist()]
        self.counts: dict[Pair, int] = dict(zip(found, sums, strict=True))
        self.places: dict[Pair, Sequence[int]] = {
            pair: array("q", part.tobytes()) for pair, part in zip(found, np.split(starts, first[1:]), strict=False)
        }
        self._heap = [(-count, pair) for pair, count in self.counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """Takes it off; of equally frequent ones that with the lowest ids; None when there are no more."""
        while self._heap:
            negative, pair = heapq.heappop(self._heap)
            if (count := self.counts[pair]) == -negative:
                del self.counts[pair]
                return pair
            self._add(pair, count)
        return None

    def _add(self, pair: Pair, count: int) -> None:
        if count:
            self.counts[pair] = count
            heapq.heappush(self._heap, (-count, pair))
        else:
            del self.counts[pair], self.places[pair]

    def _less(self, pair: Pair, count: int) -> None:
        if pair in self.counts:  # it is not if it is the merged one: "aaa"
            self.counts[pair] -= count

    def replace(self, pair: Pair, new: int, before: "Side", after: "Side") -> None:
        """The pair has become `new` between these neighbours: count what stands there now, and what no longer does."""
        a, b = pair
        for x, count in before.times.items():
            if x != new:
                self._less((x, a), count)
                self._new((x, new), count, before.places[x])
        doubled = before.times.get(new, 0)  # neighbours that have both become new: "abab"
        for x, count in after.times.items():
            self._less((b, x), count)
            self._new((new, x), count - doubled if x == a else count, after.places[x])
        if doubled:
            self._new((new, new), doubled, before.places[new])

    def _new(self, pair: Pair, count: int, places: Sequence[int]) -> None:
        if count:
            self.places[pair] = places
            self._add(pair, count)


class Side(NamedTuple):
    """The neighbours of a merged pair on one side: how often each, and where the new pairs with them begin."""

    times: defaultdict[int, int]
    places: defaultdict[int, list[int]]


def _merge(row: Row, pair: Pair, new: int, places: Sequence[int]) -> tuple[Side, Side]:
    """Write `new` over the pair at those of the places where it still stands, left to right."""
    ids, times, sizes = row
    (a, b), length = pair, sizes[new]
    half = sizes[a]
    before, after = Side(defaultdict(int), defaultdict(list)), Side(defaultdict(int), defaultdict(list))
    (times_before, places_before), (times_after, places_after) = before, after
    for start in places:
        middle, end = start + half, start + length
        if ids[start] != a or ids[middle] != b:
            continue
        ids[middle] = INSIDE
        ids[start] = ids[end - 1] = new
        x, y, n = ids[start - 1], ids[end], times[start]
        if x >= 0:
            times_before[x] += n
            places_before[x].append(start - sizes[x])
        if y >= 0:
            times_after[y] += n
            places_after[y].append(start)
    return before, after
