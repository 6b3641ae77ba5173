"""The targets of a batch of examples, by kind of task."""

from typing import Any, NamedTuple


class Answers(NamedTuple):
    """Targets of the kinds instruct and classify. Each array has the batch as its first axis."""

    ids: Any  # [B, T] int32: the token, or a text's label, that is predicted at a position; -1 where nothing is learned
    documents: Any = None  # [B, T] int32: the number of a position's example in its row; None if a row holds one
    positions: Any = None  # [B, T] int32: the position in the example, from 0; None if a row holds one


class Preferences(NamedTuple):
    """Targets of the kind prefer. The second axis is (chosen, rejected); each array has the batch as its first."""

    ids: Any  # [B, 2, T] int32: the token that is predicted at a position; -1 where nothing is learned
    reference: Any  # [B, 2] float32: the base model's log-probability of the answer
