"""Slips of the head: its table, its norm, what is done to its logits."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import linear
from jaxllm.compare.foreign.slips.rounding import OPERANDS
from jaxllm.reference import embeddings, layers
from jaxllm.reference.arrays import Array, float64

CAPS = (10.0, 20.0, 30.0, 50.0, 100.0)


def ours(piece: ForeignPiece) -> Array:
    """The logits of the recorded input: [B, T, D] -> [B, T, V]."""
    return _logits(piece, float64(piece.x))


def _logits(piece: ForeignPiece, x: Array) -> Array:
    x = x / piece.config.width_ratio
    if "table" in piece.params:
        return embeddings.token_logits(piece.params["table"], x)
    return layers.linear_map(piece.params, x)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of a head without a user's own change of the logits."""
    if piece.config.logits is not None:
        return
    x, logits = float64(piece.x), ours(piece)
    yield from _tables(piece, x)
    yield from _norms(piece)
    largest = logits.max(axis=-1, keepdims=True)
    log_probs = logits - largest - np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))
    yield Hypothesis("log-probabilities", "is the log-probabilities, not the logits", lambda: log_probs)
    yield Hypothesis("probabilities", "is the probabilities, not the logits", lambda: np.exp(log_probs))
    for shift, says in ((1, "next"), (-1, "previous")):
        moved = np.roll(logits, -shift, axis=-2)
        yield Hypothesis("positions-shifted", f"equals ours at the {says} position", partial(np.copy, moved))
    yield OneNumber(
        "logit-cap", "fits logits capped by {value} tanh(logit / cap)", lambda c: c * np.tanh(logits / c), CAPS,
        lowest=1e-3, smallest=1.0,
    )  # fmt: skip


def _tables(piece: ForeignPiece, x: Array) -> Iterator[Hypothesis]:
    """Slips of the table, or the kernel and its bias."""
    table, params = piece.extra.get("token_table"), piece.params
    if "table" in params:
        kernel = float64(params["table"]).T
    else:
        kernel = float64(params["kernel"])
        yield from linear.of_parameters(x / piece.config.width_ratio, params)
    if table is not None and "kernel" in params:
        tied = float64(table)
        yield Hypothesis(
            "tied-head", "equals ours with the token table as head", lambda: embeddings.token_logits(tied, x)
        )
    bias = params.get("bias")
    for dtype, rounded in OPERANDS.items():
        says = f"equals ours with input and weights rounded to {dtype}"
        operands = rounded(x / piece.config.width_ratio), rounded(kernel)
        yield Hypothesis("operands", says, partial(layers.linear, *operands, bias))


def _norms(piece: ForeignPiece) -> Iterator[Hypothesis]:
    """Slips of the final norm."""
    before = piece.extra.get("before_norm")
    if before is None:
        return
    before, config, params = float64(before), piece.config, piece.extra.get("norm_params")
    yield Hypothesis("no-final-norm", "equals ours without the final norm", lambda: _logits(piece, before))
    if params is None:
        return
    twice = layers.norm(params, float64(piece.x), config.norm, config.norm_epsilon)
    yield Hypothesis("final-norm-twice", "equals ours with the final norm twice", lambda: _logits(piece, twice))
