"""Slips of the head: its table, its norm, what is done to its logits."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import linear
from jaxllm.compare.foreign.slips.caps import caps
from jaxllm.compare.foreign.slips.rounding import OPERANDS
from jaxllm.reference import embeddings, layers
from jaxllm.reference.arrays import Array, float64
from jaxllm.reference.softcap import softcap


def ours(piece: ForeignPiece) -> Array:
    """The logits of the recorded input: [B, T, D] -> [B, T, V]."""
    return _logits(piece, float64(piece.x))


def _logits(piece: ForeignPiece, x: Array) -> Array:
    return _capped(_made(piece, x), piece.config.logits_softcap)


def _made(piece: ForeignPiece, x: Array) -> Array:
    """The logits before their cap."""
    x = x / piece.config.width_ratio
    if "table" in piece.params:
        return embeddings.token_logits(piece.params["table"], x)
    return layers.linear_map(piece.params, x)


def _capped(logits: Array, cap: float | None) -> Array:
    return logits if cap is None else softcap(logits, cap)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of a head without a user's own change of the logits."""
    if piece.config.logits is not None:
        return
    x, logits = float64(piece.x), ours(piece)
    cap = piece.config.logits_softcap
    for one in _tables(piece, x):
        yield Hypothesis(one.slip, one.says, partial(_predicted, one, cap))
    yield from _norms(piece)
    largest = logits.max(axis=-1, keepdims=True)
    log_probs = logits - largest - np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True))
    yield Hypothesis("log-probabilities", "is the log-probabilities, not the logits", lambda: log_probs)
    yield Hypothesis("probabilities", "is the probabilities, not the logits", lambda: np.exp(log_probs))
    for shift, says in ((1, "next"), (-1, "previous")):
        moved = np.roll(logits, -shift, axis=-2)
        yield Hypothesis("positions-shifted", f"equals ours at the {says} position", partial(np.copy, moved))
    yield from caps("logit", piece.config.logits_softcap, partial(_capped, _made(piece, x)))


def _predicted(one: Hypothesis, cap: float | None) -> Array:
    return _capped(one.predict(), cap)


def _tables(piece: ForeignPiece, x: Array) -> Iterator[Hypothesis]:
    """Slips of the table, or the kernel and its bias, before the cap."""
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
