"""Soft caps of scores and logits: cap tanh(x / cap). Gemma 2 (2024), section 2."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp


def softcap(x: ArrayLike, cap: float) -> Array:
    """cap tanh(x / cap), elementwise."""
    return cap * np.tanh(float64(x) / cap)


@vjp
def softcap_vjp(x: ArrayLike, cap: float) -> Vjp:
    """With t = tanh(x / cap): dx = dy (1 - t^2). The cap is a constant."""
    t = np.tanh(float64(x) / cap)
    return cap * t, lambda dy: (dy * (1 - t**2), None)


class SoftCap(NamedTuple):
    """The cap in the form of a user's change of scores or logits: a function and its backward."""

    cap: float

    def function(self, x: ArrayLike, *places: Any) -> Array:
        """The capped numbers."""
        return softcap(x, self.cap)

    def vjp(self, x: ArrayLike, *places: Any) -> Vjp:
        """The capped numbers and their backward; head and positions have no derivative."""
        y, back = softcap_vjp(x, self.cap)
        return y, lambda dy: (back(dy)[0], *(None for _ in places))


def change_of_scores(config: Any) -> Any:
    """The soft cap of the scores, or the user's change of them."""
    return config.score if config.score_softcap is None else SoftCap(config.score_softcap)


def change_of_logits(config: Any) -> Any:
    """The soft cap of the logits, or the user's change of them."""
    return config.logits if config.logits_softcap is None else SoftCap(config.logits_softcap)
