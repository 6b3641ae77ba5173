"""Where two sides that generate from the same prompts write different tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np


def departures(
    logits: Callable[[np.ndarray], np.ndarray], prompts: np.ndarray, ours: np.ndarray, theirs: np.ndarray
) -> list[dict[str, Any]]:
    """The `row`, the `token` and the logit `gap` of the first token that differs, for each row that has one.

    `prompts` are [B, P], what was written [B, N]; `logits` returns those [1, V] of the token after a text [1, T]. The
    gap is that of our token over theirs. If it is tiny, either is right; after it the texts differ.
    """
    parted = []
    for row in np.flatnonzero((ours != theirs).any(1)):
        token = int(np.argmax(ours[row] != theirs[row]))
        text = np.concatenate([prompts[row], ours[row, :token]])
        of_next = logits(text[None])[0]
        gap = float(of_next[ours[row, token]] - of_next[theirs[row, token]])
        parted.append({"row": int(row), "token": token, "gap": gap})
    return parted
