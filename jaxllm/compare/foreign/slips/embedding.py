"""Slips of the token embedding: other rows, other tokens."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis
from jaxllm.compare.foreign.piece import SCALED, ForeignPiece
from jaxllm.reference import embeddings
from jaxllm.reference.arrays import Array


def ours(piece: ForeignPiece) -> Array:
    """The embeddings of the recorded tokens [B, T]: [B, T, D]."""
    return _scale(piece) * embeddings.token_embedding(piece.params["table"], piece.x)


def _scale(piece: ForeignPiece) -> float:
    return float(piece.config.d_model**0.5) if piece.name == SCALED else 1.0


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis]:
    """The slips of which row is read. A factor is a slip of any piece."""
    tokens, table = np.asarray(piece.x), np.asarray(piece.params["table"])

    def rows(tokens: Array) -> Array:
        return _scale(piece) * table[np.clip(tokens, 0, len(table) - 1)]

    for shift, says in ((1, "after"), (-1, "before")):
        says = f"equals the rows {says} those of the tokens"
        yield Hypothesis("rows-shifted", says, partial(rows, (tokens + shift) % len(table)))
        says = f"equals ours with each token's {'successor' if shift > 0 else 'predecessor'} in the text in its place"
        for ends in ("wrapped", "repeated", "zero"):
            yield Hypothesis("tokens-shifted", says, partial(rows, _shifted(tokens, shift, ends)))
    yield Hypothesis("tokens-reversed", "equals ours with the tokens in reverse", partial(rows, tokens[..., ::-1]))


def _shifted(tokens: Array, shift: int, ends: str) -> Array:
    """The tokens moved by one, with what stands at the end that is left open."""
    moved = np.roll(tokens, -shift, axis=-1)
    end = -1 if shift > 0 else 0
    if ends == "repeated":
        moved[..., end] = tokens[..., end]
    elif ends == "zero":
        moved[..., end] = 0
    return moved
