"""The known slips of each kind of piece: what ours computes, and what it would be with the slip.

Each module has `ours(piece)`, the textbook's result on the recorded input, and `hypotheses(piece)`.
"""

from collections.abc import Iterator
from typing import Any

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import (
    attention,
    block,
    embedding,
    general,
    gradient,
    head,
    linear,
    loss,
    mlp,
    norm,
    optimizer,
    position,
)
from jaxllm.compare.foreign.slips.rounding import roundings

__all__ = ["hypotheses", "ours", "roundings"]

OF_KIND: dict[str, Any] = {
    "token_embedding": embedding, "position_embedding": position, "norm": norm, "linear": linear,
    "attention": attention, "mlp": mlp, "block": block, "head": head, "loss": loss, "gradient": gradient,
    "optimizer": optimizer,
}  # fmt: skip


def ours(piece: ForeignPiece) -> Any:
    """What the textbook computes from the recorded input."""
    return OF_KIND[piece.kind].ours(piece)


def hypotheses(piece: ForeignPiece, expected: Any, known: bool) -> Iterator[Hypothesis | OneNumber]:
    """The slips of the piece's kind, then those of any piece; the latter alone unless `known`.

    `known` says that `ours` is what ours computes: it does not know every option of a config.
    """
    if known:
        yield from OF_KIND[piece.kind].hypotheses(piece)
    yield from general.hypotheses(piece, expected)
