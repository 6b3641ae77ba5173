"""Piece 4: windows of ids, and the same windows one id later."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm.data import input_target_pairs as ours

from ..piece import Arguments, Function, Piece, Slip


def input_target_pairs(ids: Any, context_length: int, stride: int) -> tuple[Any, Any]:
    """jaxllm's own, as int64."""
    inputs, targets = ours(np.asarray(ids), context_length, stride)
    return inputs.astype(np.int64), targets.astype(np.int64)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for n, context_length, stride in (
        (5, 1, 2),
        (3, 1, 1),
        (4, 2, 1),
        (5, 2, 2),
        (6, 2, 2),
        (9, 2, 3),
        (6, 4, 1),
        (9, 3, 2),
    ):
        yield {"ids": np.arange(5, 5 + n), "context_length": context_length, "stride": stride}
    for n, context_length, stride in ((17, 4, 3), (23, 3, 5), (29, 7, 1), (31, 5, 5)):
        yield {"ids": rng.integers(50, size=n), "context_length": context_length, "stride": stride}


def varied(
    ids: Any, context_length: int, stride: int, *, shift: int = 1, step: str = "stride", windows: str = "all",
    begin: int = 0, exchanged: bool = False, kind: str = "windows",
) -> tuple[Any, Any]:  # fmt: skip
    """`input_target_pairs` with the mistakes that the keywords choose.

    Raises IndexError for targets past the end, where there are not as many of them as inputs.
    """
    ids = np.asarray(ids)
    by = {"stride": stride, "one": 1, "length": context_length, "one more": stride + 1}[step]
    end = len(ids) - context_length
    starts = np.arange(begin, {"all": end, "one less": end - 1, "side by side": end}.get(windows, end + 1), by)
    if windows == "side by side":
        starts = starts[: (len(ids) - 1) // context_length]
    later = {"stride": stride, "length": context_length}.get(kind, shift)
    positions = starts[:, None] + np.arange(context_length)
    inputs, targets = (
        ids[positions],
        ids[(positions + later) % len(ids) if windows == "rolled" else positions + later],
    )
    if kind == "one target":
        targets = targets[:, -1:]
    return (targets, inputs) if exchanged else (inputs, targets)


SLIPS = (
    Slip(
        "targets-not-shifted",
        "has targets that equal the inputs",
        "The model then learns to copy what it sees, and the loss falls to 0. A target is the id that follows.",
        "Which id should the model guess after the first input?",
        partial(varied, shift=0),
    ),
    Slip(
        "targets-one-late",
        "has targets that are two ids later",
        "The model would skip every next token. A target is the id directly after its input.",
        "At which id does the first target window begin?",
        partial(varied, shift=2),
    ),
    Slip(
        "targets-before-inputs",
        "has the inputs and the targets exchanged",
        "The model would guess backwards. The inputs come first, and the targets are one id later.",
        "Which of the two results begins with the first id of the text?",
        partial(varied, exchanged=True),
    ),
    Slip(
        "targets-a-stride-later",
        "has targets that are `stride` ids later",
        "The stride says how far apart windows are. The targets are one id later whatever the stride.",
        "By how much are the targets shifted if the stride is 3?",
        partial(varied, kind="stride"),
    ),
    Slip(
        "targets-are-the-next-window",
        "has the window after the inputs as targets",
        "Every position has a target of its own, the id that follows it. The whole next window is too far.",
        "By how much are the targets shifted if the context is 4 ids long?",
        partial(varied, kind="length"),
    ),
    Slip(
        "one-target-per-window",
        "has one target per window",
        "A GPT guesses at every position of the window, so one window is as many examples as it has ids. The targets "
        "have the shape of the inputs.",
        "How many targets has a window of four ids?",
        partial(varied, kind="one target"),
    ),
    Slip(
        "stride-ignored",
        "has windows that are one id apart",
        "The stride has not been used. With stride 2 every second window is left out.",
        "Where does the second window begin?",
        partial(varied, step="one"),
    ),
    Slip(
        "stride-is-the-length",
        "has windows side by side, whatever the stride",
        "Windows overlap if the stride is shorter than the context. They are side by side only if both are equal.",
        "Where does the second window begin?",
        partial(varied, step="length"),
    ),
    Slip(
        "stride-one-too-far",
        "has windows that are stride + 1 ids apart",
        "With stride 1 every id begins a window. Here every other window is lost.",
        "Where does the second window begin if the stride is 1?",
        partial(varied, step="one more"),
    ),
    Slip(
        "last-window-lost",
        "lacks the last window",
        "The last window may end one id before the text, since only its target needs that id. Its pair has been left "
        "out.",
        "For five ids and a context of four, how many pairs are there?",
        partial(varied, windows="one less"),
    ),
    Slip(
        "targets-rolled-around",
        "has a last window whose last target is the first id of the text",
        "After the last id of the text there is nothing to guess. Rolling the ids around makes up a target.",
        "Which target has the last id of the text?",
        partial(varied, windows="rolled"),
    ),
    Slip(
        "one-window-too-many",
        "has a window whose last target would lie past the end of the text",
        "A window fits only if its targets do, which reach one id further. The last window begins too late.",
        "For five ids and a context of four, how many pairs are there?",
        partial(varied, windows="one more"),
    ),
    Slip(
        "counted-side-by-side",
        "has only as many windows as fit side by side",
        "Windows that overlap are more than that. Their number follows from the stride, not from the context alone.",
        "How is the number of windows computed?",
        partial(varied, windows="side by side"),
    ),
    Slip(
        "first-id-lost",
        "has windows that begin with the second id",
        "The first window of inputs begins with the first id. Only the targets begin with the second.",
        "Which id is the first of all inputs?",
        partial(varied, begin=1),
    ),
)

PIECE = Piece(
    "input_target_pairs",
    "Input-target pairs",
    "A text is its own teacher: windows of ids, and as targets the same windows one id later.",
    (Function("input_target_pairs", input_target_pairs, _cases, SLIPS, axes="N T"),),
)
