"""Sequences of ids wherever they are stored: anything with a length whose slices are arrays."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np

from jaxllm.data.windows import Ids


class IdSequence(Protocol):
    """An array [N], shards on disk, a slice of a sequence, or several sequences joined."""

    def __len__(self) -> int: ...
    def __getitem__(self, wanted: slice, /) -> Ids: ...


@dataclass(frozen=True)
class IdSlice:
    """The ids `start` to `stop` of a sequence."""

    ids: IdSequence
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, wanted: slice, /) -> Ids:
        start, stop = _bounds(wanted, len(self))
        return self.ids[self.start + start : self.start + stop]


def id_slice(ids: IdSequence, start: int, stop: int) -> IdSequence:
    """The ids `start` to `stop`, without reading them."""
    return ids[start:stop] if isinstance(ids, np.ndarray) else IdSlice(ids, start, stop)


class JoinedIds:
    """Several sequences, one after the other."""

    def __init__(self, sequences: Sequence[IdSequence]) -> None:
        self._sequences = tuple(sequences)
        self._starts = list(accumulate(map(len, sequences), initial=0))  # and the end of the last one

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, wanted: slice, /) -> Ids:
        start, stop = _bounds(wanted, len(self))
        i = bisect_right(self._starts, start) - 1
        parts: list[Ids] = []
        while start < stop:
            begin, end = self._starts[i : i + 2]
            parts.append(self._sequences[i][start - begin : min(stop, end) - begin])
            start, i = end, i + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.uint16), *parts])


def _bounds(wanted: slice, length: int) -> tuple[int, int]:
    start, stop, step = wanted.indices(length)
    if step != 1:
        raise ValueError(f"ids are read one after the other, not in steps of {step}.")
    return start, max(start, stop)
