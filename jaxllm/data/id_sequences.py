"""Ids in a row, wherever they are: whatever has a length and gives back a copy or a view of a stretch."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np

from jaxllm.data.windows import Ids


class Row(Protocol):
    """An array [N], shards on disk, a part of a row or several rows joined."""

    def __len__(self) -> int: ...
    def __getitem__(self, wanted: slice, /) -> Ids: ...


@dataclass(frozen=True)
class Part:
    """The ids `start` to `stop` of a row."""

    row: Row
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, wanted: slice, /) -> Ids:
        start, stop = _ends(wanted, len(self))
        return self.row[self.start + start : self.start + stop]


def part(row: Row, start: int, stop: int) -> Row:
    """The ids `start` to `stop`, without reading them."""
    return row[start:stop] if isinstance(row, np.ndarray) else Part(row, start, stop)


class Joined:
    """Rows one after the other."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = tuple(rows)
        self._begin = list(accumulate(map(len, rows), initial=0))  # and where the last one ends

    def __len__(self) -> int:
        return self._begin[-1]

    def __getitem__(self, wanted: slice, /) -> Ids:
        start, stop = _ends(wanted, len(self))
        i = bisect_right(self._begin, start) - 1
        parts: list[Ids] = []
        while start < stop:
            begin, end = self._begin[i : i + 2]
            parts.append(self._rows[i][start - begin : min(stop, end) - begin])
            start, i = end, i + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint16), *parts])


def _ends(wanted: slice, length: int) -> tuple[int, int]:
    start, stop, step = wanted.indices(length)
    if step != 1:
        raise ValueError(f"ids are read one after the other, not in steps of {step}.")
    return start, max(start, stop)
