"""Batches as a pure function of (seed, step).

No state is carried from step to step. The step gives the epoch, and the epoch gives the order of its windows. So
resuming is the same as continuing, and each of several processes finds its own rows of a batch.
"""

from collections.abc import Iterator

import numpy as np

from jaxllm.data.id_sequences import IdSequence, id_slice
from jaxllm.data.mixture import Mixture
from jaxllm.data.permutation import ROUNDS, permute
from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError

VALIDATION_SHARE = 0.1


def split_ids(ids: IdSequence, context_length: int) -> tuple[IdSequence, IdSequence]:
    """The first 90 % of the ids, to train on, and the last 10 %, to validate on.

    Raises InputError as `check_splits` does.
    """
    boundary = int(len(ids) * (1 - VALIDATION_SHARE))
    train, validation = id_slice(ids, 0, boundary), id_slice(ids, boundary, len(ids))
    check_splits(train, validation, context_length)
    return train, validation


def check_splits(train: IdSequence, validation: IdSequence, context_length: int) -> None:
    """Raises InputError unless there is a window with its target to train on, and one target to validate on."""
    if len(train) < context_length + 1 or len(validation) < 2:
        raise InputError(
            f"the text has {len(train) + len(validation)} tokens, {len(train)} to train on and {len(validation)} to "
            f"validate on, but model.context_length = {context_length} needs {context_length + 1} and 2; use a longer "
            "text or a shorter context."
        )


def windows_per_epoch(n_ids: int, context_length: int) -> int:
    """Windows in one pass over the ids. At most 2 T - 2 ids at the ends are left out, other ones in each epoch."""
    return max(1, (n_ids - context_length) // context_length)


def batch(
    ids: IdSequence | Mixture,
    context_length: int,
    batch_size: int,
    seed: int,
    step: int,
    process: int = 0,
    processes: int = 1,
) -> tuple[Ids, Ids]:
    """Inputs and targets [B, T] int32 of training step `step` (from 0): a pure function of its arguments.

    An epoch cuts the ids into windows that do not overlap, from an offset drawn for the epoch, and visits each once in
    an order drawn for the epoch. A batch may hold the end of one epoch and the beginning of the next. In a mixture each
    row comes from one source, and each source has epochs of its own. With several `processes`, number `process` gets
    B / processes rows, and all of them together are the batch. Raises InputError for fewer than T + 1 ids and for a
    batch size that `processes` does not divide.
    """
    if batch_size % processes or not 0 <= process < processes:
        raise InputError(
            f"a batch of {batch_size} cannot be split into {processes} parts with a part {process}; the number of "
            "parts must divide it, and parts are numbered from 0."
        )
    n_rows = batch_size // processes
    rows = step * batch_size + process * n_rows + np.arange(n_rows)
    if isinstance(ids, Mixture):
        source_of, rows = ids.assign(rows, seed)
        drawn = np.empty((n_rows, context_length + 1), np.int32)
        for i, source in enumerate(ids.sources):
            drawn[source_of == i] = _windows(source, rows[source_of == i], context_length, (seed, i))
    else:
        drawn = _windows(ids, rows, context_length, (seed,))
    return drawn[:, :-1], drawn[:, 1:]


def _windows(ids: IdSequence, rows: Ids, context_length: int, seed: tuple[int, ...]) -> Ids:
    """The windows, each with its last target, for these rows [N] of all epochs: [N, T + 1] int32."""
    if len(ids) < context_length + 1:
        raise InputError(
            f"{len(ids)} tokens are too few for a window of {context_length} and its target; use a longer text or a "
            "shorter context."
        )
    n = windows_per_epoch(len(ids), context_length)
    epochs, positions = np.divmod(rows, n)
    starts = np.empty(len(rows), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        words = np.random.SeedSequence([*seed, int(epoch)]).generate_state(ROUNDS + 1, np.uint64)
        offset = int(words[ROUNDS]) % (len(ids) - n * context_length)  # the last target is at offset + n T <= N - 1
        starts[here] = offset + context_length * permute(positions[here], n, words[:ROUNDS])
    windows = [ids[start : start + context_length + 1] for start in starts.tolist()]
    return np.array(windows, np.int32).reshape(-1, context_length + 1)


def evaluation_batches(
    ids: IdSequence, context_length: int, batch_size: int, begin: int | None = None
) -> Iterator[tuple[Ids, Ids, Ids]]:
    """All ids once, in order: inputs, targets [B, T] int32 and weights [B, T] float32, 0 where padded.

    Every id but the first is a target exactly once. With `begin`, each window starts with that id in place of the one
    before its targets, and the first id is a target as well. All batches have one shape, and are read one at a time.
    """
    shape, size = (batch_size, context_length), batch_size * context_length
    n = n_targets(ids, begin)
    before = len(ids) - n  # 1 where the first id is not a target
    for start in range(0, n, size):
        read = ids[start : start + size + before]
        padded = np.zeros(size + 1, np.int32)
        padded[1 - before : 1 - before + len(read)] = read
        inputs, targets = padded[:-1].reshape(shape), padded[1:].reshape(shape)
        if begin is not None:
            inputs = np.concatenate([np.full((batch_size, 1), begin, np.int32), inputs[:, 1:]], axis=1)
        weights = np.arange(size) < n - start
        yield inputs, targets, weights.reshape(shape).astype(np.float32)


def n_targets(ids: IdSequence, begin: int | None) -> int:
    """The number of ids that an evaluation predicts: those after the first and, with `begin`, the first as well."""
    return len(ids) - (begin is None)
