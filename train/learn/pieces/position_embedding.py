"""Piece 6: learned positions, added to the tokens, and sinusoidal ones. Its slips are in `position_embedding_slips`."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import sum_to

from ..piece import Arguments, Function, Piece
from .position_embedding_slips import LEARNED_SLIPS, SINUSOIDAL_SLIPS


def add_learned_positions(x: Any, table: Any) -> Any:
    """The twin's positions, added to x."""
    return np.asarray(x) + reference.embeddings.learned_positions(table, np.shape(x)[-2])


def add_learned_positions_vjp(x: Any, table: Any) -> Any:
    """dx = dy; the table gets the sum of dy over the batch, in the rows that are used."""
    length = np.shape(x)[-2]
    positions, back = reference.embeddings.learned_positions_vjp(table, length)

    def pullback(dy: Any) -> tuple[Any, Any]:
        return dy, back(sum_to(dy, positions.shape))[0]

    return add_learned_positions(x, table), pullback


def sinusoidal_positions(length: int, d_model: int) -> Any:
    """The twin."""
    return reference.embeddings.sinusoidal_positions(length, d_model)


def _learned_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[1.0, 2], [3, 4]]), "table": np.array([[10.0, 20], [30, 40], [50, 70]])}
    yield {"x": np.array([[[1.0, 2], [3, 4]]]), "table": np.array([[10.0, 20], [30, 40], [50, 70]])}
    x = np.array([[[1.0, 2], [3, 4]], [[5, 6], [7, 9]]])
    yield {"x": x, "table": np.array([[10.0, 20], [30, 40], [50, 70]])}
    for shape, context in (((3, 4), 5), ((2, 3, 4), 7), ((5, 2, 6), 8), ((3, 2, 4, 5), 6)):
        yield {"x": rng.normal(size=shape), "table": rng.normal(size=(context, shape[-1]))}


def _sinusoidal_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for length, d_model in ((1, 2), (2, 2), (2, 4), (3, 6), (5, 8), (30, 16), (7, 10)):
        yield {"length": length, "d_model": d_model}


PIECE = Piece(
    "position_embedding",
    "Position embedding",
    "Attention does not see the order of its inputs; a vector for each position, added to the token's, tells it.",
    (
        Function(
            "add_learned_positions",
            add_learned_positions,
            _learned_cases,
            LEARNED_SLIPS,
            vjp=add_learned_positions_vjp,
            axes="T D",
        ),
        Function("sinusoidal_positions", sinusoidal_positions, _sinusoidal_cases, SINUSOIDAL_SLIPS, axes="T D"),
    ),
)
