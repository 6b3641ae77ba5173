"""Batches of examples as a pure function of (seed, step), and the targets of a batch by kind of task."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxllm.data.permutation import ROUNDS, permute
from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError

from .fitting import Group, length
from .packing import pack

MULTIPLE = 16  # of the positions of a row; processors compute faster with round sizes
NO_ROW = -1
SAVES = 0.9  # the share of positions that wider packed rows may leave


class Answers(NamedTuple):
    """Targets of the kinds instruct and classify. Each array has the batch as its first axis."""

    ids: Any  # [B, T] int32: the token, or a text's label, that is predicted at a position; -1 where nothing is learned
    documents: Any = None  # [B, T] int32: the number of a position's example in its row; None if a row holds one
    positions: Any = None  # [B, T] int32: the position in the example, from 0; None if a row holds one


class Preferences(NamedTuple):
    """Targets of the kind prefer. The second axis is (chosen, rejected); each array has the batch as its first."""

    ids: Any  # [B, 2, T] int32: the token that is predicted at a position; -1 where nothing is learned
    reference: Any  # [B, 2] float32: the base model's log-probability of the answer


@dataclass(frozen=True)
class Rows:
    """Examples, and which of them share a row of a batch."""

    examples: tuple[Group, ...]
    rows: tuple[tuple[int, ...], ...]  # the numbers of each row's examples
    width: int  # T, positions of a row
    packed: bool
    reference: NDArray[np.float32] | None = None  # of prefer: [N, 2], see Preferences

    def take(self, numbers: NDArray[np.int64]) -> tuple[Ids, Answers | Preferences]:
        """Inputs and targets of the rows with these numbers [B]; NO_ROW is a row in which nothing is learned.

        Padding has the id 0 and target -1. In packed rows it is a document of its own. Without a known reference the
        log-probabilities are NaN, so that no loss is computed from them by mistake.
        """
        n_texts = len(self.examples[0])
        inputs = np.zeros((len(numbers), n_texts, self.width), np.int32)
        ids, documents = np.full_like(inputs, -1), np.zeros_like(inputs)
        positions = documents + np.arange(self.width, dtype=np.int32)
        for r, number in enumerate(numbers.tolist()):
            for text in range(n_texts if number != NO_ROW else 0):
                start = 0
                for d, example in enumerate(self.rows[number]):
                    one = self.examples[example][text]
                    end = start + len(one.inputs)
                    inputs[r, text, start:end], ids[r, text, start:end] = one.inputs, one.targets
                    documents[r, text, start:] = d
                    positions[r, text, start:] = np.arange(self.width - start)
                    start = end
                documents[r, text, start:] = len(self.rows[number])
                positions[r, text, start:] = np.arange(self.width - start)
        if n_texts == 2:
            return inputs, Preferences(ids, self._references(numbers))
        return inputs[:, 0], Answers(ids[:, 0], *(documents[:, 0], positions[:, 0]) if self.packed else (None, None))

    def _references(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        known = np.full((len(self.examples), 2), np.nan, np.float32) if self.reference is None else self.reference
        return np.where(numbers[:, None] == NO_ROW, np.float32(0), known[numbers])


def make_rows(splits: list[list[Group]], window: int, packing: bool) -> list[Rows]:
    """The examples of each split in rows of at most `window` positions: several in one with `packing`, else one.

    All rows are as wide as the longest one, rounded up.
    """
    lengths = [[length(group) for group in groups] for groups in splits]
    numbers = [pack(one, window) if packing else [[i] for i in range(len(one))] for one in lengths]
    longest = max(sum(one[i] for i in row) for one, rows in zip(lengths, numbers, strict=True) for row in rows)
    width = min(window, rounded_up(longest))
    return [
        Rows(tuple(groups), tuple(map(tuple, rows)), width, packing)
        for groups, rows in zip(splits, numbers, strict=True)
    ]


def packed_width(lengths: list[int], longest: int, most: int) -> int:
    """The width of packed rows where none is given: that of the longest example, or 2, 4 or 8 times it.

    A wider row, of at most `most` positions, is taken where it saves at least a tenth of all positions. That is so for
    examples of nearly one length, of which a row of the longest one would hold a single one.

    >>> packed_width([12, 13, 14, 12, 13], 16, 64), packed_width([3, 16, 9, 4], 16, 64)
    (64, 16)
    """

    def positions(width: int) -> int:
        return width * len(pack(lengths, width))

    best = longest
    for width in (n * longest for n in (2, 4, 8) if n * longest <= most):
        best = width if positions(width) <= SAVES * positions(best) else best
    return best


def rounded_up(n: int) -> int:
    """The next number of positions that is a multiple of MULTIPLE."""
    return -(-n // MULTIPLE) * MULTIPLE


def draw(
    rows: Rows, batch_size: int, seed: int, step: int, part: int = 0, parts: int = 1
) -> tuple[Ids, Answers | Preferences]:
    """Inputs and targets of training step `step` (from 0): a pure function of its arguments.

    An epoch visits each row once, in an order drawn for the epoch. A batch may hold the end of one epoch and the
    beginning of the next. Of several `parts`, number `part` gets B / parts rows, and all of them together are the
    batch. Raises InputError for a batch size that `parts` does not divide.
    """
    if batch_size % parts or not 0 <= part < parts:
        raise InputError(
            f"a batch of {batch_size} cannot be split into {parts} parts with a part {part}; the number of parts must "
            "divide it, and parts are numbered from 0."
        )
    n_rows, n = batch_size // parts, len(rows.rows)
    epochs, places = np.divmod(step * batch_size + part * n_rows + np.arange(n_rows), n)
    numbers = np.empty(n_rows, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        keys = np.random.SeedSequence([seed, int(epoch)]).generate_state(ROUNDS, np.uint64)
        numbers[here] = permute(places[here], n, keys)
    return rows.take(numbers)


def in_order(rows: Rows, batch_size: int) -> Iterator[tuple[Ids, Answers | Preferences]]:
    """All rows once, in the order of the file, in batches of one size; the last is filled with rows of no target."""
    n = len(rows.rows)
    for start in range(0, n, batch_size):
        numbers = np.arange(start, start + batch_size)
        yield rows.take(np.where(numbers < n, numbers, NO_ROW))
