"""The slips of drawing a token in piece 19: of cumulative sums, and of the order of tokens."""

from functools import partial
from typing import Any

import numpy as np

from ..piece import Slip


def varied_sample(probabilities: Any, u: float, *, rule: str = "exceeds", first: int = 0) -> int:
    """`sample` with the mistakes that the keywords choose."""
    p = np.asarray(probabilities)
    total = np.cumsum(p)
    rules: dict[str, Any] = {
        "exceeds": lambda: np.argmax(total > u),
        "reaches": lambda: np.argmax(total >= u),
        "before": lambda: min(np.argmax(np.append(total - p > u, True)), len(p) - 1),
        "last not above": lambda: max(int((total <= u).sum()) - 1, 0),
        "most likely": lambda: np.argmax(p),
        "single": lambda: min(np.argmax(np.append(p > u, True)), len(p) - 1),
        "nearest": lambda: np.argmin(np.abs(p - u)),
        "even": lambda: int(u * len(p)),
        "sorted": lambda: np.argsort(-p, kind="stable")[np.argmax(np.cumsum(np.sort(p)[::-1]) > u)],
        "rank": lambda: np.argmax(np.cumsum(np.sort(p)[::-1]) > u),
        "from the end": lambda: len(p) - 1 - np.argmax(np.cumsum(p[::-1]) > u),
    }
    return int(rules[rule]()) + first


SAMPLE_SLIPS = (
    Slip(
        "reached-is-enough",
        "takes the first index whose cumulative sum is u or more",
        "With u = 0 a first token of probability 0 would be drawn. The sum must exceed u.",
        "Which token is drawn for u = 0 if the first has probability 0?",
        partial(varied_sample, rule="reaches"),
    ),
    Slip(
        "own-probability-left-out",
        "takes cumulative sums without the token's own probability",
        "The share of a token ends with its own probability. Without it every token gets the share of the one before.",
        "What is the first of the cumulative sums?",
        partial(varied_sample, rule="before"),
    ),
    Slip(
        "one-early",
        "takes the token before the right one",
        "The last token whose sum does not exceed u is not the one meant. It is the first whose sum does.",
        "Which token is drawn for u just below 1?",
        partial(varied_sample, rule="last not above"),
    ),
    Slip(
        "index-from-one",
        "is counted from 1",
        "Ids count from 0. The last id would be outside the vocabulary.",
        "Which id has the first token?",
        partial(varied_sample, first=1),
    ),
    Slip(
        "always-the-most-likely",
        "is always the most likely token",
        "u has not been used, and the model would write the same text each time. A token is drawn as often as it is "
        "likely.",
        "Which argument is not used?",
        partial(varied_sample, rule="most likely"),
    ),
    Slip(
        "no-cumulative-sum",
        "compares single probabilities with u",
        "The tokens share the line from 0 to 1, each with a piece as long as its probability. The pieces begin where "
        "the one before ends.",
        "Where on the line from 0 to 1 does the second token begin?",
        partial(varied_sample, rule="single"),
    ),
    Slip(
        "nearest-probability",
        "is the token whose probability is nearest to u",
        "A likely token must be drawn more often. Here it is drawn if u happens to be like its probability.",
        "How often is a token of probability 0.75 drawn?",
        partial(varied_sample, rule="nearest"),
    ),
    Slip(
        "even-draw",
        "draws all tokens equally often",
        "The probabilities have not been used. u must be held against their sums.",
        "Which argument is not used?",
        partial(varied_sample, rule="even"),
    ),
    Slip(
        "sorted-first",
        "goes through the tokens from the most likely one",
        "Each token is drawn as often as it should be, but for other u. Here the tokens are in the order of their ids.",
        "In which order are the probabilities added?",
        partial(varied_sample, rule="sorted"),
    ),
    Slip(
        "rank-for-id",
        "is a rank among sorted probabilities, not an id",
        "After sorting, the index no longer says which token it is. The ids must be sorted along, or not at all.",
        "To which token does the index belong?",
        partial(varied_sample, rule="rank"),
    ),
    Slip(
        "from-the-end",
        "adds the probabilities from the last token",
        "Each token is drawn as often as it should be, but for other u. Here id 0 has the beginning of the line.",
        "In which order are the probabilities added?",
        partial(varied_sample, rule="from the end"),
    ),
)
