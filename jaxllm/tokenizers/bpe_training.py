"""Learning byte-pair merges without recounting: `textbook.learn_merges`, fast.

All unique pieces lie one after another in one array of ids, one position a byte. A token of several bytes has its id at
its first and its last position, so both neighbours of a token are one look away, and a merge writes a few numbers at
each occurrence of its pair. Counts of pairs change only by what stands beside the merged pair.
"""

import heapq
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from jaxllm.tokenizers.textbook import Pair

BORDER, INSIDE = -1, -2  # between two pieces; where a token began that is now part of a longer one
MANY = 100  # positions that NumPy handles faster than Python
Positions = Sequence[int] | np.ndarray  # MANY or more in an array, fewer in a list
# An id on one side of a merged pair: how often it stands there, and where the new pairs with it begin.
Neighbour = tuple[int, int, Positions]


def learn_merges(
    piece_counts: Mapping[bytes, int], n_merges: int, progress: Callable[[int], None] | None = None
) -> list[Pair]:
    """The first `n_merges` merges, or fewer when no pair is left; see `textbook.learn_merges`.

    `progress` is called with the number of merges so far. Memory is about 30 bytes for each byte of the unique pieces.
    """
    pieces = Pieces(piece_counts, n_merges)
    pairs = Pairs(pieces)
    merges: list[Pair] = []
    while len(merges) < n_merges and (found := pairs.pop_most_frequent()):
        pair, positions = found
        new = 256 + len(merges)
        merges.append(pair)
        pairs.update(pair, new, *pieces.merge(pair, new, positions))
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


class Both(NamedTuple):
    """The same numbers for Python, which reads single ones faster from `numbers`, and for NumPy."""

    numbers: "array[int]"
    array: np.ndarray


def _both(values: np.ndarray) -> Both:
    numbers = array(values.dtype.char, values.tobytes())
    return Both(numbers, np.frombuffer(numbers, values.dtype))


class Pieces:
    """All pieces as merged so far: the id at each position, the count of its piece, the number of bytes of each id."""

    def __init__(self, piece_counts: Mapping[bytes, int], n_merges: int) -> None:
        self.ids, self.counts = map(_both, _lay_out(piece_counts))
        most_merges = min(n_merges, len(self.ids.numbers))  # each removes a token
        self.sizes = _both(np.ones(256 + most_merges, np.int32))

    def merge(self, pair: Pair, new: int, positions: Positions) -> tuple[list[Neighbour], list[Neighbour]]:
        """Write `new` over the pair at each of the positions where it still is, from left to right.

        Returns the neighbours before and after.
        """
        sizes = self.sizes.numbers
        sizes[new] = sizes[pair[0]] + sizes[pair[1]]
        if len(positions) < MANY or pair[0] == pair[1]:  # "aaa" has the pair twice and merges it once
            return self._merge_few(pair, new, positions)
        return self._merge_many(pair, new, np.asarray(positions))

    def _merge_few(self, pair: Pair, new: int, positions: Positions) -> tuple[list[Neighbour], list[Neighbour]]:
        ids, sizes = self.ids.numbers, self.sizes.numbers
        (a, b), length = pair, sizes[new]
        half = sizes[a]
        before: defaultdict[int, list[int]] = defaultdict(list)
        after: defaultdict[int, list[int]] = defaultdict(list)
        for start in positions.tolist() if isinstance(positions, np.ndarray) else positions:
            middle, end = start + half, start + length
            if ids[start] != a or ids[middle] != b:
                continue
            ids[middle] = INSIDE
            ids[start] = ids[end - 1] = new
            x, y = ids[start - 1], ids[end]
            if x >= 0:
                before[x].append(start - sizes[x])
            if y >= 0:
                after[y].append(start)
        return self._counted(before), self._counted(after)

    def _counted(self, positions_of: Mapping[int, list[int]]) -> list[Neighbour]:
        count = self.counts.numbers.__getitem__
        return [(x, sum(map(count, positions)), positions) for x, positions in positions_of.items()]

    def _merge_many(self, pair: Pair, new: int, starts: np.ndarray) -> tuple[list[Neighbour], list[Neighbour]]:
        """`_merge_few` for two different ids."""
        ids, sizes = self.ids.array, self.sizes.array
        (a, b), half, length = pair, sizes[pair[0]], sizes[new]
        starts = starts[(ids[starts] == a) & (ids[starts + half] == b)]
        ids[starts + half] = INSIDE
        ids[starts] = ids[starts + length - 1] = new
        x, y = ids[starts - 1], ids[starts + length]
        y[y == new] = a  # as it was when the pair before it was merged
        pre, post = x >= 0, y >= 0
        x = x[pre]
        return self.grouped(x, starts[pre] - sizes[x]), self.grouped(y[post], starts[post])

    def grouped(self, ids: np.ndarray, positions: np.ndarray) -> list[Neighbour]:
        """For each different id its positions, which ascend, and the sum of their counts."""
        if not len(ids):
            return []
        both = np.sort(ids.astype(np.int64) << 32 | positions)  # several times as fast as sorting an order
        ids, positions = both >> 32, both & (2**32 - 1)
        first = np.flatnonzero(np.diff(ids, prepend=-1))
        counts = np.add.reduceat(self.counts.array[positions], first)
        parts = (positions[i:j] for i, j in pairwise([*first.tolist(), len(ids)]))
        lists = [part if len(part) >= MANY else part.tolist() for part in parts]
        return list(zip(ids[first].tolist(), counts.tolist(), lists, strict=True))


class Pairs:
    """How often each pair occurs, where it may begin, and which one is next.

    A pair (a, b) is the integer `a * most_ids + b`. Its count only falls after the merge that made its newer id. So
    pairs wait under the count that they had, which is never too low, and those under the highest count are ready in
    their order; a pair whose count has fallen waits again. Positions are never removed; `Pieces.merge` checks them.
    """

    def __init__(self, pieces: Pieces) -> None:
        self.most_ids = len(pieces.sizes.numbers)
        self.counts: dict[int, int] = {}
        self.positions: dict[int, Positions] = {}
        self._highest, self._ready = 0, list[int]()  # a heap
        self._waiting: dict[int, list[int]] = {}
        self._lower: list[int] = []  # the counts in `_waiting`, negated: a heap
        ids = pieces.ids.array
        starts = np.flatnonzero((ids[:-1] >= 0) & (ids[1:] >= 0))
        for pair, count, positions in pieces.grouped(ids[starts] * 256 + ids[starts + 1], starts):
            a, b = divmod(pair, 256)
            self._add(a * self.most_ids + b, count, positions)

    def _add(self, pair: int, count: int, positions: Positions) -> None:
        self.counts[pair], self.positions[pair] = count, positions
        self._wait(pair, count)

    def _wait(self, pair: int, count: int) -> None:
        if count == self._highest:
            heapq.heappush(self._ready, pair)
        elif count in self._waiting:
            self._waiting[count].append(pair)
        else:
            self._waiting[count] = [pair]
            heapq.heappush(self._lower, -count)

    def pop_most_frequent(self) -> tuple[Pair, Positions] | None:
        """The next pair to merge: among equally frequent ones that with the lowest ids; None when no pair is left."""
        while self._ready or self._lower:
            if not self._ready:
                self._highest = -heapq.heappop(self._lower)
                self._ready = self._waiting.pop(self._highest)
                heapq.heapify(self._ready)
            pair = heapq.heappop(self._ready)
            count = self.counts[pair]
            if 0 < count < self._highest:
                self._wait(pair, count)
                continue
            positions = self.positions.pop(pair)
            del self.counts[pair]
            if count:
                return divmod(pair, self.most_ids), positions
        return None

    def update(self, pair: Pair, new: int, before: list[Neighbour], after: list[Neighbour]) -> None:
        """Count the pairs that came and went when `pair` became `new` between these neighbours."""
        (a, b), most_ids, doubled = pair, self.most_ids, 0
        for x, count, positions in before:
            if x == new:  # both neighbours became new: "abab"
                doubled = count
            else:
                self._decrease(x * most_ids + a, count)
            self._add(x * most_ids + new, count, positions)
        for x, count, positions in after:
            self._decrease(b * most_ids + x, count)
            if x != a or count > doubled:
                self._add(new * most_ids + x, count - doubled if x == a else count, positions)

    def _decrease(self, pair: int, count: int) -> None:
        if pair in self.counts:  # the merged pair itself, as in "aaa", is not
            self.counts[pair] -= count
