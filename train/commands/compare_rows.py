"""The rows of a run's validation split on which `jaxllm compare` computes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data.batches import evaluation_batches, n_targets
from jaxllm.utils.errors import InputError

from ..inputs import Prepared, prepare
from ..runs.load import TrainedRun

LONGEST = 128  # default tokens of a window; the reference is slow


def row_length(length: int | None, model: GPTConfig) -> int:
    """The tokens of a window. Raises InputError for more than the context."""
    if length is not None and length > model.context_length:
        raise InputError(f"--length is {length}, more than model.context_length = {model.context_length}.")
    return length or min(LONGEST, model.context_length)


def prepared_data(run: TrainedRun) -> Prepared:
    """The run's data. Raises InputError where they cannot be read."""
    return prepare(run.config, run.tokenizer, run.chat)


def validation_rows(
    run: TrainedRun, prepared: Prepared, batch_size: int, length: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Inputs and targets [B, T] of the first rows of a run's validation split.

    They are windows, which begin with the begin token of an imported model, or examples. Raises InputError where the
    split has fewer rows.
    """
    rows = _examples if prepared.examples else _windows
    return rows(prepared, run, batch_size, length)


def _windows(prepared: Prepared, run: TrainedRun, batch_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [B, T] of a text."""
    ids = prepared.validation_ids
    n = n_targets(ids, run.begin_token)
    length = min(length, n)
    if batch_size > n // length:
        raise InputError(
            f"--batch-size is {batch_size}, but the validation split has {n // length} windows of {length} tokens."
        )
    inputs, targets, _ = next(evaluation_batches(ids, length, batch_size, run.begin_token))
    return inputs, targets


def _examples(prepared: Prepared, run: TrainedRun, batch_size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets [B, T] of examples, cut to the length: at each position the next token, or the text's label.

    A pair is two rows. What shares a row when packed attends across here, because all windows of `compare` are texts.
    """
    assert prepared.examples is not None
    rows = [row for batch in prepared.examples.batches("validation", 1) for row in _flat(*batch)]
    if batch_size > len(rows):
        raise InputError(f"--batch-size is {batch_size}, but the validation split has {len(rows)} rows of examples.")
    inputs, learned = (np.stack(part)[:, :length] for part in zip(*rows[:batch_size], strict=True))
    if run.model.config.n_classes:
        whole = np.stack([targets for _, targets in rows[:batch_size]])
        return inputs, np.broadcast_to(whole.max(-1, keepdims=True), inputs.shape)
    following = np.concatenate([inputs[:, 1:], np.maximum(learned[:, -1:], 0)], -1)
    return inputs, following


def _flat(inputs: np.ndarray, targets: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows [T] of a batch: inputs, and what is learned."""
    width = inputs.shape[-1]
    return zip(inputs.reshape(-1, width), targets.ids.reshape(-1, width), strict=True)
