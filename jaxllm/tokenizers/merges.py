"""Learning byte-pair merges without recounting: `textbook.learn_merges`, fast.

Each unique piece is kept once with its count (minbpe counts every occurrence anew), a merge visits only the
pieces that hold its pair, and a heap with lazy deletion finds the next pair.
"""

import heapq
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import pairwise

from jaxllm.tokenizers.textbook import Pair, merge


def learn_merges(
    piece_counts: Mapping[bytes, int], n_merges: int, progress: Callable[[int], None] | None = None
) -> list[Pair]:
    """The first `n_merges` merges, or fewer when no pair is left; ids from 256 on. See `textbook.learn_merges`."""
    pieces = [list(piece) for piece in piece_counts]
    times = list(piece_counts.values())
    counts: dict[Pair, int] = defaultdict(int)
    where: dict[Pair, set[int]] = defaultdict(set)
    for i, piece in enumerate(pieces):
        for pair in pairwise(piece):
            counts[pair] += times[i]
            where[pair].add(i)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)

    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        negative, pair = heapq.heappop(heap)
        if counts.get(pair, 0) != -negative or negative == 0:
            continue  # the count has changed since: a newer entry is in the heap
        new = 256 + len(merges)
        merges.append(pair)
        changed: set[Pair] = set()
        for i in where.pop(pair):
            before, after = pieces[i], merge(pieces[i], pair, new)
            for old in pairwise(before):
                counts[old] -= times[i]
                changed.add(old)
            for fresh in pairwise(after):
                counts[fresh] += times[i]
                changed.add(fresh)
                where[fresh].add(i)
            pieces[i] = after
        for old in changed:
            if counts[old] > 0:
                heapq.heappush(heap, (-counts[old], old))
            else:
                del counts[old]
        if progress:
            progress(len(merges))
    return merges
