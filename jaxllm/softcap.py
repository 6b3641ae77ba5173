"""Soft caps: large scores of attention, or logits, are bent towards a limit that they never reach.

The NumPy twin is `jaxllm.reference.softcap`.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Float

from jaxllm.array import Array
from jaxllm.config import GPTConfig


def softcap(x: Float[Array, "*shape"], cap: float) -> Float[Array, "*shape"]:
    """cap tanh(x / cap), which is near x for small x and between -cap and cap. Gemma 2 (2024), section 2."""
    return cap * jnp.tanh(x / cap)


class SoftCap(NamedTuple):
    """`softcap` as a change of scores or of logits, wherever they are. It can be a static argument of `jax.jit`."""

    cap: float

    def __call__(self, x: Float[Array, "*shape"], *places: Any) -> Float[Array, "*shape"]:
        """The capped numbers; head and positions of a score have no influence."""
        return softcap(x, self.cap)


def change_of_scores(config: GPTConfig) -> Any:
    """The function (score, head, t, s) -> score of a config: its soft cap or the user's. None if there is neither."""
    return config.score if config.score_softcap is None else SoftCap(config.score_softcap)


def change_of_logits(config: GPTConfig) -> Any:
    """The function (logits) -> logits of a config: its soft cap or the user's. None if there is neither."""
    return config.logits if config.logits_softcap is None else SoftCap(config.logits_softcap)
