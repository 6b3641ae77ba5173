"""Slips of any piece: a result that is zero, that is the input, or that is a multiple of ours."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference.arrays import tree_map

NOT_OF = ("loss", "optimizer")  # a number is a multiple of any other, and parameters are no results


def hypotheses(piece: ForeignPiece, expected: Any) -> Iterator[Hypothesis | OneNumber]:
    """Zero, the input unchanged, and a factor."""
    if piece.kind in NOT_OF:
        return
    yield Hypothesis("zero", "is zero everywhere", lambda: tree_map(np.zeros_like, expected))
    if np.shape(piece.x) == np.shape(expected) and piece.kind not in ("gradient", "position_embedding"):
        yield Hypothesis("identity", "is its input, unchanged", lambda: piece.x)
    yield OneNumber(
        "factor", "is ours times {value}", lambda c: tree_map(lambda y: c * y, expected), (1.0,), may_vanish=False,
        names=_names(piece),
    )  # fmt: skip


def _names(piece: ForeignPiece) -> Mapping[str, float]:
    """The factors that have a meaning in a model of this size."""
    if piece.kind == "gradient":
        n = piece.extra.get("n_tokens", 1)
        return {"the number of tokens": n, "1 / the number of tokens": 1 / n} if n > 1 else {}
    config = piece.config
    d, k = config.d_model, config.head_dim
    return {
        "sqrt(d_model)": math.sqrt(d), "1 / sqrt(d_model)": 1 / math.sqrt(d), "d_model": d, "1 / d_model": 1 / d,
        "sqrt(d_head)": math.sqrt(k), "1 / sqrt(d_head)": 1 / math.sqrt(k), "1 / sqrt(2)": 1 / math.sqrt(2),
        "1 / sqrt(2 n_layers)": 1 / math.sqrt(2 * config.n_layers),
    }  # fmt: skip
