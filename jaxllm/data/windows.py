"""Input-target pairs: windows of ids, and the same windows one id later."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxllm.utils.errors import InputError

Ids = NDArray[Any]


def input_target_pairs(ids: Sequence[int] | Ids, context_length: int, stride: int) -> tuple[Ids, Ids]:
    """Windows of T = `context_length` ids, each `stride` ids after the one before, and their targets: two [N, T] int32.

    inputs[n] = ids[n stride : n stride + T] and targets[n] = ids[n stride + 1 : n stride + T + 1]. With stride T no id
    is in two inputs. Raschka, "Build a Large Language Model (From Scratch)", section 2.6.

    >>> inputs, targets = input_target_pairs([5, 6, 7, 8, 9], context_length=2, stride=2)
    >>> inputs.tolist(), targets.tolist()
    ([[5, 6], [7, 8]], [[6, 7], [8, 9]])

    Raises InputError for too few ids for one window and its target, and for a length or stride below 1.
    """
    if context_length < 1 or stride < 1:
        raise InputError(f"context_length = {context_length} and stride = {stride} must both be at least 1.")
    ids = np.asarray(ids, np.int32)
    if len(ids) < context_length + 1:
        raise InputError(
            f"the text has {len(ids)} tokens, but one window of context_length = {context_length} and its "
            f"target need {context_length + 1}; use a longer text or a shorter context."
        )
    starts = np.arange(0, len(ids) - context_length, stride)
    positions = starts[:, None] + np.arange(context_length)
    return ids[positions], ids[positions + 1]
