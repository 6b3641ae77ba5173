"""What the context is worth to a model: its loss by position in the window, and by the length of the windows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np
from jax import Array

from jaxllm.data.batches import evaluation_batches, n_targets
from jaxllm.data.id_sequences import IdSequence
from jaxllm.fast.loss import MOST_LOGITS
from jaxllm.gpt import GPT, traced_once
from jaxllm.loss import token_losses
from jaxllm.utils.errors import InputError

from ..evaluate import known_targets


@dataclass(frozen=True)
class PositionLosses:
    """The losses of a split by position in its windows, all [T] float64: counts, means and their standard errors.

    A window ends where the next one begins, so that each token counts once, and the mean over the positions, weighted
    by the counts, is the loss over the whole split. The entry t is of the token predicted from t + 1 tokens. A mean of
    0 tokens and a standard error of 1 are NaN.
    """

    counts: np.ndarray
    means: np.ndarray
    errors: np.ndarray

    @property
    def loss(self) -> float:
        """In nats per token over all positions; NaN where nothing was counted."""
        counted = self.counts > 0
        return float(np.average(self.means[counted], weights=self.counts[counted])) if counted.any() else np.nan

    def between(self, first: int, last: int) -> float:
        """The loss of tokens predicted from `first` to `last` tokens; NaN where nothing was counted."""
        here = slice(first - 1, last)
        return PositionLosses(self.counts[here], self.means[here], self.errors[here]).loss


def context_lengths(longest: int) -> list[int]:
    """The powers of 2 up to the longest context, and this one.

    >>> context_lengths(48)
    [1, 2, 4, 8, 16, 32, 48]
    """
    return [*(2**i for i in range((longest - 1).bit_length())), longest]


def check_context(ids: IdSequence, context_length: int, begin: int | None) -> None:
    """Raises InputError unless there is a context to vary, and every position in it is that of two tokens."""
    if context_length < 2:
        raise InputError(f"--context needs a model.context_length of at least 2, but it is {context_length}.")
    if (n := n_targets(ids, begin)) < 2 * context_length:
        raise InputError(
            f"--context needs two windows of model.context_length = {context_length}, {2 * context_length} tokens to "
            f"predict, but there are {n}; give more text with --data."
        )


def losses_by_context(
    model: GPT, params: Any, ids: IdSequence, batch_size: int, begin: int | None = None
) -> dict[int, PositionLosses]:
    """By each of the `context_lengths`, the losses of the ids cut into windows of that length.

    Windows are those of `train.evaluate.evaluator`: with `begin` each starts with that id, and targets that the model
    sees in windows of that length, by a `model.visible` that looks ahead, are left out. A batch has as many tokens as
    `batch_size` whole windows, or fewer where their logits would be large.
    """
    config = model.config
    rows = min(batch_size * config.context_length, MOST_LOGITS // config.vocab_size)

    @jax.jit
    def losses_of(params: Any, inputs: Array, targets: Array) -> Array:
        return token_losses(cast(Array, traced_once(model).apply({"params": params}, inputs)), targets)

    def measured(length: int) -> PositionLosses:
        known = known_targets(config, length)
        unseen = np.ones(length, bool) if known is None else ~known
        return _position_losses(losses_of, params, ids, length, max(1, rows // length), begin, unseen)

    return {length: measured(length) for length in context_lengths(config.context_length)}


def _position_losses(
    losses_of: Callable[..., Array], params: Any, ids: IdSequence, length: int, batch_size: int, begin: int | None,
    unseen: np.ndarray,
) -> PositionLosses:  # fmt: skip
    """The losses at the positions whose targets are `unseen` by the model, bool [length]."""
    counts, sums, squares = np.zeros((3, length))
    for inputs, targets, weights in evaluation_batches(ids, length, batch_size, begin):
        counted = (weights > 0) & unseen
        losses = np.where(counted, losses_of(params, inputs, targets), 0).astype(np.float64)
        counts += counted.sum(0)
        sums += losses.sum(0)
        squares += (losses**2).sum(0)
    return position_losses(counts, sums, squares)


def position_losses(counts: np.ndarray, sums: np.ndarray, squares: np.ndarray) -> PositionLosses:
    """Means and standard errors from the sums of losses and of their squares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums / counts
        variances = np.maximum(squares - sums * means, 0) / (counts - 1)  # of single tokens, unbiased
        return PositionLosses(counts, means, np.sqrt(np.where(counts > 1, variances, np.nan) / counts))


def table(losses: dict[int, PositionLosses]) -> str:
    """A line for each context length.

    Its columns are the loss in windows of that length, the gain over the line above, and the positions of the longest
    window that only this line reaches, with the loss there.
    """
    lines = ["context       loss       gain  loss at positions"]
    longest, before = losses[max(losses)], 0
    for length, of_length in losses.items():
        gain = losses[before].loss - of_length.loss if before else np.nan
        there = longest.between(before + 1, length)
        place = f"{before + 1:,} to {length:,}" if length > before + 1 else f"{length:,}"
        lines.append(f"{length:7,} {_text(of_length.loss)} {_text(gain)} {_text(there)} at {place}")
        before = length
    return "\n".join(lines)


def _text(x: float) -> str:
    return f"{'-' if np.isnan(x) else f'{x:.4f}':>10}"


def figures(losses: dict[int, PositionLosses]) -> dict[str, Any]:
    """All numbers for a JSON file; null where nothing was counted."""
    longest = losses[max(losses)]
    return {
        "by_context": [
            {"context": length, "tokens": int(one.counts.sum()), "loss": _known(one.loss)}
            for length, one in losses.items()
        ],
        "by_position": [
            {"tokens_read": t, "tokens": int(count), "loss": _known(mean), "standard_error": _known(error)}
            for t, (count, mean, error) in enumerate(zip(longest.counts, longest.means, longest.errors, strict=True), 1)
        ],
    }


def _known(x: float) -> float | None:
    return None if np.isnan(x) else float(x)
