"""Slips of what may be attended to."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from jaxllm.compare.foreign.slips.attending import Attending
from jaxllm.reference.arrays import Array

MOST_WINDOWS = 64  # widths that are tried, the narrowest


def changes(config: Any, how: Attending) -> Iterator[tuple[str, str, Attending]]:
    """A name, a sentence and the attention of each slip."""
    length = len(np.asarray(how.mask))
    t, s = np.indices((length, length))
    window = config.sliding_window
    for slip, says, mask in _masks(t, s, length, window):
        yield slip, f"equals ours {says}", replace(how, mask=mask)
    causal = t >= s
    yield "mask-value", "equals ours with masked scores of 0", replace(how, masked=0.0)
    yield "mask-after-softmax", "equals ours with weights masked after the softmax", replace(how, after_softmax=True)
    if window is not None and window < length:
        yield "window", f"equals ours without the window of {window}", replace(how, mask=causal)
    for width in range(1, min(length, MOST_WINDOWS + 1)):
        if width != window:
            is_ours = "there is none" if window is None else f"it is {window}"
            says = f"equals ours with a window of {width} tokens, itself included; in ours {is_ours}"
            yield "window", says, replace(how, mask=causal & (t - s < width))


def _masks(t: Array, s: Array, length: int, window: int | None) -> Iterator[tuple[str, str, Array | None]]:
    yield "no-mask", "without a mask", None
    near = t - s < (window or length)
    yield "mask-one-late", "with a mask that shows one token of the future", (s <= t + 1) & near
    # Where a token may not see itself, the first sees nothing: its scores are all alike, so it sees all.
    yield "mask-one-early", "with a mask that hides each token from itself", (s < t) & near
    says = "with a mask that hides each token but the first from itself"
    yield "mask-one-early", says, ((s < t) | (t == 0) & (s == 0)) & near
    yield "mask-transposed", "with a mask that shows the future and hides the past", s >= t
