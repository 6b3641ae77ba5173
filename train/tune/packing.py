"""Which examples share a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Examples of these lengths in rows of at most `capacity` positions: the numbers of each row's examples.

    Longest first, each goes into the row that it fills best (best-fit decreasing; Johnson et al. 1974). Numbers in a
    row ascend, and so do the first numbers of the rows. No length may be above the capacity.

    >>> pack([3, 5, 2, 6], 8)
    [[0, 1], [2, 3]]
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # how much of a row is free, and its number; sorted
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        place = bisect_left(free, (lengths[i], 0))
        if place < len(free):
            room, row = free.pop(place)
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(i)
        insort(free, (room - lengths[i], row))
    return sorted(sorted(row) for row in rows)
