"""Several tokens from one reading: the newest token is read together with drafted ones (`jaxllm.lookup`).

A draft counts if it is the token that is drawn there, so that the text is the one without drafts. Rows stay aligned: a
reading yields as many tokens as were drafted rightly in every row, and one more. A row that is hard to foretell slows
the others down.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from jaxllm.array import Array
from jaxllm.lookup import drafted

if TYPE_CHECKING:
    from jaxllm.fast.generate import GenerationState


def read_drafts(
    read: Callable[..., tuple[Array, Any]], draw_next: "Callable[[GenerationState, Array], GenerationState]",
    unfinished: "Callable[[GenerationState], Array]", n: int, context: int, state: "GenerationState",
) -> "GenerationState":  # fmt: skip
    """The state with 1 to n + 1 more tokens in each row, after one reading.

    `read(tokens, cache, follow)` is a `CachedGPT`. As long as the token that `draw_next` adds is the drafted one in
    every row, the next logits are those of the text, and the next token is drawn from them. Rows that are done do not
    count. No token is drawn from logits beyond the `context`, nor after the text that is `unfinished`.
    """
    first = state.length - 1  # column of the newest token, which is read first
    guesses = drafted(state.text, state.length, state.start, n)
    tokens = jnp.concatenate([column(state.text, first), guesses], axis=1)
    logits, cache = read(tokens, state.cache, follow=True)

    def foreseen(drawn: "GenerationState") -> Array:
        """Whether the model has read the newest token of each row, within the context."""
        newest = drawn.length - 1
        right = (column(tokens, newest - first) == column(drawn.text, newest))[:, 0] | drawn.done
        return (newest - first <= n) & (right & (newest - drawn.start < context)).all()

    def draw_one(drawn: "GenerationState") -> "GenerationState":
        return draw_next(drawn, column(logits, drawn.length - 1 - first)[:, 0])

    drawn = jax.lax.while_loop(lambda s: unfinished(s) & foreseen(s), draw_one, state._replace(cache=cache))
    return drawn._replace(cache=drawn.cache.with_first(drawn.length - state.length, tokens, state.cache))


def column(x: Array, i: Array) -> Array:
    """Column i of an array [B, N, ...], as [B, 1, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, i, 1, 1)
