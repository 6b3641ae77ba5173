"""Batches as a pure function of (seed, step).

nanoGPT draws windows with replacement from a generator that a resumed run begins anew (karpathy/nanoGPT#467),
nanodo carries the state of an iterator. Here nothing is carried: the step alone tells which epoch it falls
into, the epoch which order its windows have, so that resuming is the same as going on.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from jaxllm.data.pairs import Ids, windows
from jaxllm.errors import InputError

VALIDATION_SHARE = 0.1


def split_ids(ids: Ids, context_length: int) -> tuple[Ids, Ids]:
    """The first 90 % of the ids to train on, the last 10 % to validate on.

    Raises InputError unless the first holds a whole window with its target and the second one target.
    """
    cut = int(len(ids) * (1 - VALIDATION_SHARE))
    train, validation = ids[:cut], ids[cut:]
    if len(train) < context_length + 1 or len(validation) < 2:
        raise InputError(
            f"the text has {len(ids)} tokens, {len(train)} to train on and {len(validation)} to validate on, but "
            f"model.context_length = {context_length} needs {context_length + 1} and 2; use a longer text or a shorter "
            "context."
        )
    return train, validation


def windows_per_epoch(n_ids: int, context_length: int) -> int:
    """Windows in one pass over the ids. At most 2 T - 2 ids at the ends are left out, others in each epoch."""
    return max(1, (n_ids - context_length) // context_length)


def batch(ids: Ids, context_length: int, batch_size: int, seed: int, step: int) -> tuple[Ids, Ids]:
    """Inputs and targets [B, T] of training step `step` (from 0): a pure function of its arguments.

    An epoch cuts the ids into windows that do not overlap, from an offset drawn for that epoch, and visits each
    once in an order drawn for that epoch. A batch may hold the end of one epoch and the beginning of the next.
    Raises InputError for fewer than T + 1 ids.
    """
    if len(ids) < context_length + 1:
        raise InputError(f"{len(ids)} tokens are fewer than a window of {context_length} and its target need.")
    n = windows_per_epoch(len(ids), context_length)
    place = step * batch_size + np.arange(batch_size)
    starts = [
        _order(seed, int(epoch), n, len(ids), context_length)[i] for epoch, i in zip(*np.divmod(place, n), strict=True)
    ]
    inputs, targets = windows(ids, np.array(starts), context_length)
    return inputs.astype(np.int32), targets.astype(np.int32)


@lru_cache(maxsize=2)  # the last two epochs, not to draw the order anew at every step
def _order(seed: int, epoch: int, n: int, n_ids: int, context_length: int) -> Ids:
    """Where the windows of an epoch begin, in the order of their visit."""
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    offset = draw.integers(n_ids - n * context_length)  # the last target is at offset + n T <= n_ids - 1
    return offset + context_length * draw.permutation(n)


def evaluation_batches(ids: Ids, context_length: int, batch_size: int) -> Iterator[tuple[Ids, Ids, Ids]]:
    """All ids once, in order: inputs, targets [B, T] int32 and weights [B, T] float32, 0 where padded.

    Every id but the first is a target exactly once; all batches have one shape.
    """
    n_targets = len(ids) - 1
    rows = -(-n_targets // (batch_size * context_length)) * batch_size
    padded = np.zeros(rows * context_length + 1, np.int32)
    padded[: len(ids)] = ids
    weights = (np.arange(rows * context_length) < n_targets).astype(np.float32).reshape(rows, context_length)
    inputs, targets = windows(padded, np.arange(rows) * context_length, context_length)
    for row in range(0, rows, batch_size):
        chosen = slice(row, row + batch_size)
        yield inputs[chosen], targets[chosen], weights[chosen]
