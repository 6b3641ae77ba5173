"""Slips of soft caps, cap tanh(x / cap), of scores and of logits."""

from collections.abc import Callable, Iterator

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.reference.arrays import Array

CAPS = (2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 100.0)  # first guesses
HIGHEST = 1000.0  # a higher cap is as good as none


def caps(what: str, ours: float | None, predict: Callable[[float | None], Array]) -> Iterator[Hypothesis | OneNumber]:
    """Another cap of `what`, "score" or "logit", or none where ours has one."""
    is_ours = "in ours there is none" if ours is None else f"ours is {ours:g}"
    out = np.full_like(predict(ours), np.nan)
    yield OneNumber(
        f"{what}-cap", f"fits a cap of {{value}} in cap tanh({what} / cap); {is_ours}",
        lambda c: predict(c) if c < HIGHEST else out, CAPS, lowest=1e-3, smallest=1.0,
    )  # fmt: skip
    if ours is not None:
        yield Hypothesis(f"{what}-cap", f"equals ours without the cap of the {what}s, {ours:g}", lambda: predict(None))
