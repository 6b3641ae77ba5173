"""Piece 19: probabilities of the next token, and the draw. The slips of the draw are in `drawing_slips`."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference

from ..piece import Arguments, Function, Piece, Slip
from .drawing_slips import SAMPLE_SLIPS


def next_token_probabilities(logits: Any, temperature: float, top_k: int | None = None) -> Any:
    """The twin's temperature, top-k and softmax; at temperature 0 the most likely token has probability 1."""
    logits = np.asarray(logits)
    if temperature == 0:
        return np.eye(len(logits))[np.argmax(logits)]
    logits = reference.sampling.scale_temperature(logits, temperature)
    return reference.layers.softmax(logits if top_k is None else reference.sampling.top_k(logits, top_k))


def sample(probabilities: Any, u: float) -> int:
    """The first index whose cumulative sum exceeds u."""
    return int(np.argmax(np.cumsum(probabilities) > u))


def _probability_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    few = np.log([1.0, 3])
    yield {"logits": few, "temperature": 1.0, "top_k": None}
    yield {"logits": few, "temperature": 0.5, "top_k": None}
    yield {"logits": few, "temperature": 0.0, "top_k": None}
    yield {"logits": np.log([4.0, 1, 3]), "temperature": 1.0, "top_k": 2}
    yield {"logits": np.log([4.0, 1, 3]), "temperature": 1.0, "top_k": 1}
    yield {"logits": np.array([1000.0, 999]), "temperature": 1.0, "top_k": None}
    for v in (5, 9, 16):
        for temperature, top_k in ((0.8, 3), (1.7, v - 1), (0.0, 2), (2.5, None), (1.3, v + 4)):
            yield {"logits": 3 * rng.normal(size=v) - 1, "temperature": temperature, "top_k": top_k}


def _sample_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for probabilities, u in (
        ([0.25, 0.75], 0.5), ([0.75, 0.25], 0.5), ([0.25, 0.25, 0.5], 0.25), ([0.0, 0.5, 0.5], 0.0),
        ([0.5, 0.0, 0.5], 0.5), ([0.5, 0.25, 0.25], 0.875), ([0.25, 0.5, 0.25], 0.125),
    ):  # fmt: skip
        yield {"probabilities": np.array(probabilities), "u": u}
    for v in (3, 7, 12):
        for _ in range(4):
            yield {"probabilities": rng.dirichlet(np.ones(v)), "u": float(rng.random())}


def varied_probabilities(
    logits: Any, temperature: float, top_k: int | None = None, *, heat: str = "divides", more: int = 0,
    keep: str = "largest", dropped: str = "minus infinity", stable: str = "yes", greedy: str = "one-hot",
    order: bool = False, total: str = "divided",
) -> Any:  # fmt: skip
    """`next_token_probabilities` with the mistakes that the keywords choose."""
    logits = np.asarray(logits)
    n = len(logits)
    if temperature == 0 and greedy != "plain":
        at_zero = {"one-hot": np.eye(n)[np.argmax(logits)], "even": np.full(n, 1 / n)}
        at_zero["one-hot of the smallest"] = np.eye(n)[np.argmin(logits)]
        return at_zero[greedy]
    t = temperature or 1.0
    z = {"divides": logits / t, "multiplies": logits * t, "none": logits, "after": logits}[heat]
    kept = (
        np.ones(n, bool)
        if top_k is None or keep == "all" or (keep == "all but k" and top_k >= n)
        else np.zeros(n, bool)
    )
    if not kept.all() and top_k is not None:
        ranked = {"smallest": np.argsort(z), "first": np.arange(n)}.get(keep, np.argsort(-z))
        kept[ranked[: n - top_k if keep == "all but k" else top_k + more]] = True
    z = np.where(kept, z, {"minus infinity": -np.inf, "zero": 0.0}.get(dropped, z))
    with np.errstate(all="ignore"):
        e = np.exp(z - z.max()) if stable == "yes" else np.exp(z)
        if stable == "as math does" and np.isinf(e).any():
            raise OverflowError("math range error")
        p = e / e.sum() if total == "divided" else e
    if dropped == "probability 0, others as before":
        p = np.where(kept, p, 0.0)
    p = p / t if heat == "after" else p
    return np.sort(p)[::-1] if order else p


PROBABILITY_SLIPS = (
    Slip(
        "temperature-multiplies",
        "is multiplied by the temperature where it should be divided",
        "A high temperature then makes the model sure, not bold. Division makes the logits flatter as it rises.",
        "Do the probabilities get more even if the temperature doubles?",
        partial(varied_probabilities, heat="multiplies"),
    ),
    Slip(
        "temperature-forgotten",
        "does not depend on the temperature",
        "The temperature has been used at 0 only, or not at all. It divides the logits.",
        "Which argument is not used?",
        partial(varied_probabilities, heat="none"),
    ),
    Slip(
        "temperature-after-softmax",
        "has probabilities that are divided by the temperature",
        "They do not sum to 1 any more, and made to sum to 1 they would not have changed. The temperature divides "
        "the logits.",
        "Do the results sum to 1?",
        partial(varied_probabilities, heat="after"),
    ),
    Slip(
        "one-too-many-kept",
        "keeps k + 1 tokens",
        "The k-th largest logit is the last to be kept. The index of the threshold is one too far.",
        "How many probabilities are above 0 with k = 1?",
        partial(varied_probabilities, more=1),
    ),
    Slip(
        "one-too-few-kept",
        "keeps k - 1 tokens",
        "The k-th largest logit itself is kept. A comparison with > loses it.",
        "How many probabilities are above 0 with k = 2?",
        partial(varied_probabilities, more=-1),
    ),
    Slip(
        "smallest-kept",
        "keeps the k smallest logits",
        "The model then writes what it thinks least likely. A sort goes upwards unless told otherwise.",
        "At which end of the sorted logits do you look?",
        partial(varied_probabilities, keep="smallest"),
    ),
    Slip(
        "threshold-from-the-wrong-end",
        "keeps all but the k smallest logits",
        "The threshold was counted from the small end of the sorted logits. Only k tokens are kept.",
        "At which end of the sorted logits do you count?",
        partial(varied_probabilities, keep="all but k"),
    ),
    Slip(
        "first-kept",
        "keeps the tokens with the k lowest ids",
        "Ids say nothing about likelihood. The logits must be ranked first.",
        "By what are the tokens ranked?",
        partial(varied_probabilities, keep="first"),
    ),
    Slip(
        "top-k-forgotten",
        "keeps all tokens, whatever top_k is",
        "A long tail of unlikely tokens together is drawn often. top_k cuts it off.",
        "Which argument is not used?",
        partial(varied_probabilities, keep="all"),
    ),
    Slip(
        "not-normalised-again",
        "has probabilities that do not sum to 1 after top-k",
        "The dropped tokens took their probability with them. Drop logits before the softmax, and it is shared out "
        "anew.",
        "Do the results sum to 1?",
        partial(varied_probabilities, dropped="probability 0, others as before"),
    ),
    Slip(
        "not-divided-by-the-sum",
        "has exponentials that are not divided by their sum",
        "Probabilities sum to 1, and exponentials sum to anything. The division makes the one of the other.",
        "Do the results sum to 1?",
        partial(varied_probabilities, total="left out"),
    ),
    Slip(
        "zeros-for-dropped-logits",
        "gives dropped tokens the logit 0",
        "The exponential of 0 is 1, so they stay in the race. Only a logit of minus infinity has probability 0.",
        "Which logit has the probability 0?",
        partial(varied_probabilities, dropped="zero"),
    ),
    Slip(
        "overflow",
        "overflows for large logits, where exp(1000) is infinite",
        "The exponential of a logit above 709 has no float64. A shift of all logits by the same number does not "
        "change the result.",
        "Which number could you subtract from all logits so that none is above 0?",
        partial(varied_probabilities, stable="no"),
    ),
    Slip(
        "overflow-error",
        "overflows, with an error, for large logits",
        "The exponential of a logit above 709 has no float64, and Python's own raises an error. A shift of all "
        "logits by the same number does not change the result.",
        "Which number could you subtract from all logits so that none is above 0?",
        partial(varied_probabilities, stable="as math does"),
    ),
    Slip(
        "temperature-zero-is-one",
        "takes temperature 0 as 1",
        "Towards 0 the largest logit takes everything. At 0 it has probability 1 and all others 0.",
        "What do the probabilities become as the temperature falls?",
        partial(varied_probabilities, greedy="plain"),
    ),
    Slip(
        "temperature-zero-is-even",
        "has equal probabilities at temperature 0",
        "That is the limit of a high temperature. At 0 the most likely token has probability 1.",
        "What do the probabilities become as the temperature falls?",
        partial(varied_probabilities, greedy="even"),
    ),
    Slip(
        "temperature-zero-is-least-likely",
        "has the least likely token at temperature 0",
        "At 0 the largest logit has probability 1. Here it is the smallest.",
        "At which end of the logits do you look?",
        partial(varied_probabilities, greedy="one-hot of the smallest"),
    ),
    Slip(
        "sorted",
        "has the probabilities in falling order",
        "The place of a probability is the id of its token. Sorted, that is lost.",
        "To which token does the first probability belong?",
        partial(varied_probabilities, order=True),
    ),
)

PIECE = Piece(
    "sampling",
    "Sampling",
    "Logits become probabilities, as bold or as careful as one likes, and a random number chooses the next token.",
    (
        Function("next_token_probabilities", next_token_probabilities, _probability_cases, PROBABILITY_SLIPS),
        Function("sample", sample, _sample_cases, SAMPLE_SLIPS),
    ),
)
