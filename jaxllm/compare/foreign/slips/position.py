"""Slips of positions that are added: other rows, another table."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference import embeddings
from jaxllm.reference.arrays import Array, float64

MOST_SHIFT = 3  # rows by which positions may be off


def ours(piece: ForeignPiece) -> Array:
    """The embeddings with positions added [B, T, D], or the positions alone in the shape that was recorded."""
    return _sum(piece, _rows(piece, np.arange(_length(piece))))


def _length(piece: ForeignPiece) -> int:
    return int(np.shape(piece.got if piece.x is None else piece.x)[-2])


def _rows(piece: ForeignPiece, positions: Array) -> Array:
    """The vectors of positions [T, D]."""
    kind = piece.config.position
    if kind == "learned":
        return float64(piece.params["table"])[positions]
    if kind == "sinusoidal":
        return embeddings.sinusoidal_embedding(positions, np.shape(piece.got)[-1])
    return float64(kind.function(positions, np.shape(piece.got)[-1]))


def _sum(piece: ForeignPiece, vectors: Array) -> Array:
    return np.broadcast_to(vectors, np.shape(piece.got)) if piece.x is None else float64(piece.x) + vectors


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of which vectors are added."""
    positions = np.arange(_length(piece))
    rows = _rows(piece, positions)
    yield from _shifts(piece, positions)
    if piece.x is not None:
        yield Hypothesis("no-positions", "equals ours without positions", partial(_sum, piece, np.zeros_like(rows)))
        yield OneNumber(
            "position-scale",
            "fits positions times {value}",
            lambda c: _sum(piece, c * rows),
            (0.5, 1.0, 2.0),
            may_vanish=False,
        )
    yield Hypothesis("positions-reversed", "equals ours with positions from the end", partial(_sum, piece, rows[::-1]))
    first = partial(_sum, piece, np.broadcast_to(rows[:1], rows.shape))
    yield Hypothesis("one-position", "equals ours with position 0 for all tokens", first)
    by_batch = _by_batch(piece)
    if by_batch is not None:
        yield Hypothesis("positions-by-batch", "equals ours with the number in the batch as position", lambda: by_batch)
    halves = np.concatenate([rows[:, 0::2], rows[:, 1::2]], axis=-1)
    if piece.config.position == "sinusoidal":
        says = "equals ours with all sines before all cosines"
        yield Hypothesis("sinusoidal-order", says, partial(_sum, piece, halves))
    elif rows.shape[-1] % 2 == 0:
        sinusoidal = embeddings.sinusoidal_positions(len(positions), rows.shape[-1])
        yield Hypothesis("sinusoidal", "equals ours with sinusoidal positions", partial(_sum, piece, sinusoidal))


def _shifts(piece: ForeignPiece, positions: Array) -> Iterator[Hypothesis]:
    table = piece.params.get("table")
    for shift in range(-MOST_SHIFT, MOST_SHIFT + 1):
        if shift == 0:
            continue
        moved = positions + shift
        moved = moved if table is None else moved % len(table)
        says = f"equals ours with positions that begin at {shift}"
        yield Hypothesis("positions-shifted", says, partial(_sum, piece, _rows(piece, moved)))


def _by_batch(piece: ForeignPiece) -> Array | None:
    """The sum where row b of the batch has the vector of position b throughout."""
    shape, table = np.shape(piece.got), piece.params.get("table")
    if len(shape) != 3 or shape[0] < 2 or (table is not None and shape[0] > len(table)):
        return None
    return _sum(piece, _rows(piece, np.arange(shape[0]))[:, None, :])
