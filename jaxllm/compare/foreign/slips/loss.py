"""Slips of the loss: what is summed, which targets, which logarithm."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference import layers
from jaxllm.reference import loss as losses
from jaxllm.reference.arrays import Array, float64

SMOOTHING = (0.1, 0.05, 0.01)  # of labels


def ours(piece: ForeignPiece) -> Array:
    """The mean cross-entropy of the recorded logits [B, T, V]; of targets in the vocabulary."""
    logits, targets = float64(piece.x), np.asarray(piece.extra["targets"])
    return losses.cross_entropy(logits, targets)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis]:
    """The slips of a number that is the mean of the losses of all tokens."""
    logits, targets = float64(piece.x), np.asarray(piece.extra["targets"])
    each = losses.token_losses(logits, targets)
    mean, n = each.mean(), each.size
    yield from _sums(each, logits.shape[-1])
    for slip, says, value in (
        ("sign", "is ours with the other sign", -mean),
        ("logarithm", "is ours in bits", mean / math.log(2)),
        ("logarithm", "is ours with the logarithm of base 10", mean / math.log(10)),
        ("perplexity", "is the perplexity exp(loss)", math.exp(min(mean, 700))),
        ("mean-of-probabilities", "is -log of the mean probability", float(-np.log(np.exp(-each).mean()))),
        ("perplexity", "is the mean of the tokens' perplexities", float(np.exp(each).mean())),
    ):  # fmt: skip
        yield Hypothesis(slip, says, _constant(value))
    if n > 1 and each.ndim == 2:
        yield from _targets(piece, logits, targets)
        yield from _left_out(piece, each, targets)
    yield from _softened(logits, targets, each)


def _constant(value: Any) -> Callable[[], Array]:
    return lambda: np.asarray(value, np.float64)


def _sums(each: Array, vocabulary: int) -> Iterator[Hypothesis]:
    yield Hypothesis("sum", "is the sum over all tokens, not the mean", _constant(each.sum()))
    if each.ndim == 2:
        yield Hypothesis(
            "sum", "is the sum over the tokens, the mean over the batch", _constant(each.sum() / len(each))
        )
        yield Hypothesis("sum", "is the mean over the tokens, the sum over the batch", _constant(each.mean(-1).sum()))
    says = "is the mean over tokens and vocabulary"
    yield Hypothesis("mean-over-vocabulary", says, _constant(each.mean() / vocabulary))


def _targets(piece: ForeignPiece, logits: Array, targets: Array) -> Iterator[Hypothesis]:
    """Slips of which target belongs to which position."""
    again = losses.cross_entropy(logits[:, :-1], targets[:, 1:])
    yield Hypothesis("targets-shifted", "is ours with the targets shifted once more", _constant(again))
    wrapped = losses.cross_entropy(logits, np.roll(targets, -1, axis=-1))
    yield Hypothesis("targets-shifted", "is ours with the targets rolled once more", _constant(wrapped))
    back = losses.cross_entropy(logits[:, 1:], targets[:, :-1])
    yield Hypothesis("targets-shifted", "is ours with the targets one position late", _constant(back))
    tokens = piece.extra.get("tokens")
    if tokens is not None:
        same = losses.cross_entropy(logits, np.asarray(tokens))
        yield Hypothesis("targets-not-shifted", "is ours with the tokens themselves as targets", _constant(same))
    # A softmax over an axis of which PyTorch makes no complaint: F.cross_entropy takes classes in axis 1.
    over_positions = logits - np.log(np.exp(logits - logits.max()).sum(axis=1, keepdims=True)) - logits.max()
    chosen = -np.take_along_axis(over_positions, targets[..., None], axis=-1).mean()
    yield Hypothesis("softmax-axis", "is ours with the softmax over the positions", _constant(chosen))


def _left_out(piece: ForeignPiece, each: Array, targets: Array) -> Iterator[Hypothesis]:
    """Slips of which tokens count."""
    for says, part in (
        ("the last position alone", each[:, -1]), ("all positions but the last", each[:, :-1]),
        ("all positions but the first", each[:, 1:]), ("the first text of the batch alone", each[0]),
    ):  # fmt: skip
        yield Hypothesis("positions", f"is the mean over {says}", _constant(part.mean()))
    for token in sorted({0, piece.config.vocab_size - 1, piece.config.separator} - {None}):
        here = targets == token
        if here.any() and not here.all():
            says = f"is ours with the targets {token} left out"
            yield Hypothesis("ignored-target", says, _constant(each[~here].mean()))
            says = f"is ours with the loss of targets {token} counted as 0"
            yield Hypothesis("ignored-target", says, _constant(np.where(here, 0.0, each).mean()))


def _softened(logits: Array, targets: Array, each: Array) -> Iterator[Hypothesis]:
    """Slips of the distribution, or a term that is added."""
    twice = losses.cross_entropy(layers.softmax(logits), targets)
    yield Hypothesis("softmax-twice", "is ours of the probabilities in place of the logits", _constant(twice))
    largest = logits.max(axis=-1, keepdims=True)
    log_sum = (largest + np.log(np.exp(logits - largest).sum(axis=-1, keepdims=True)))[..., 0]
    uniform = (log_sum - logits.mean(axis=-1)).mean()
    for share in SMOOTHING:
        value = (1 - share) * each.mean() + share * uniform
        yield Hypothesis("label-smoothing", f"is ours with labels smoothed by {share:g}", _constant(value))
    for weight in (1e-4, 1e-3):
        value = each.mean() + weight * (log_sum**2).mean()
        yield Hypothesis("z-loss", f"is ours plus {weight:g} times the square of log Z", _constant(value))
