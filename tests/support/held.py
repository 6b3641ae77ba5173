"""Users' functions with their NumPy twins in one object, which model and reference take alike."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm.utils.ideas import Idea


class Held(Idea):
    """Called, the function in JAX; `function` and `vjp` are its twin."""

    def __init__(self, name: str, ours: Callable[..., Any], twin: Callable[..., Any], vjp: Any = None) -> None:
        super().__init__(twin, f"ideas.py:{name}")
        self.ours, self.vjp = ours, vjp

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.ours(*args, **kwargs)

    @property
    def twin(self) -> Callable[..., Any]:
        return self.function

    @property
    def twin_vjp(self) -> Any:
        return self.vjp


def score(name: str, ours: Callable[..., Any], twin: Callable[..., Any], slope: Callable[..., Any]) -> Held:
    """A change of scores whose derivative is the slope."""

    def vjp(*args: Any) -> Any:
        return twin(*args), lambda dy: (dy * slope(*args), None, None, None)

    return Held(name, ours, twin, vjp)


def visible(name: str, rule: Callable[..., Any]) -> Held:
    """A rule of operators, which arrays of JAX and of NumPy have alike."""
    return Held(name, rule, rule)


def within(seen: Any, document_t: Any, document_s: Any) -> Any:
    return seen if document_t is None else seen & (document_t == document_s)


ALIBI = score("alibi",  # Press et al. 2022, for four heads
    lambda score, head, t, s: score - 2.0 ** (-2.0 * (head + 1)) * (t - s),
    lambda score, head, t, s: score - 2.0 ** (-2.0 * (head + 1)) * (t - s),
    lambda score, head, t, s: 1.0,
)  # fmt: skip
SOFT_CAP = score("soft_cap",  # Gemma 2 (2024), with a cap near the scores
    lambda score, head, t, s: 0.7 * jnp.tanh(score / 0.7),
    lambda score, head, t, s: 0.7 * np.tanh(score / 0.7),
    lambda score, head, t, s: 1 - np.tanh(score / 0.7) ** 2,
)  # fmt: skip
PLACED = score("placed",  # where head and positions themselves count, and a result that is no whole array of scores
    lambda score, head, t, s: jnp.sin(score) * jnp.cos(1 + head + 0.5 * t) + 0.1 * s,
    lambda score, head, t, s: np.sin(score) * np.cos(1 + head + 0.5 * t) + 0.1 * s,
    lambda score, head, t, s: np.cos(score) * np.cos(1 + head + 0.5 * t),
)  # fmt: skip
DILATED = visible("dilated", lambda t, s, dt, ds: within((s <= t) & (t - s < 9) & ((t - s) % 3 != 1), dt, ds))
PREFIX = visible("prefix", lambda t, s, dt, ds: within((s <= t) | (s < 4), dt, ds))
ABSOLUTE = visible(  # the first document and every fourth position are seen by all that come later
    "absolute", lambda t, s, dt, ds: (s <= t) & ((t - s < 2) | (s % 4 == 0) | (False if dt is None else ds == 0))
)
EARLIER = visible("earlier", lambda t, s, dt, ds: within(s < t, dt, ds))  # the first position sees nothing
