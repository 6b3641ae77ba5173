"""The scores of a chunk of queries in `jaxllm.fast.attention`: changed by the user's score, and masked."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.array import Array
from jaxllm.attention import Rule, Score, change_scores, visible
from jaxllm.fast.products import product
from jaxllm.precision import at_least_float32


class ChunkScores(NamedTuple):
    """What is the same in all chunks of an attention, and the scores of one, from its first row's number `start`."""

    length: int  # of the keys, without padding
    window: int | None
    rule: Rule | None
    score: Score | None
    heads: int  # whose numbers repeat along the axis of batch and heads

    def of(self, q: Array, keys: Array, start: Array, *documents: Array) -> Array:
        """The scores [N, t, s] of q [N, t, K] and keys [N, s, K], changed; documents as in `seen`.

        The lowest finite number where a key is not `visible`, and -inf for padding that a rule might show.
        """
        scores = self._changed(start, _scaled(q, keys))
        scores = jnp.where(self.seen(scores.shape, start, *documents), scores, jnp.finfo(scores.dtype).min)
        return scores if self.rule is None else jnp.where(jnp.arange(scores.shape[-1]) < self.length, scores, -jnp.inf)

    def before_change(self, q: Array, keys: Array, start: Array, gradient: Array) -> Array:
        """The gradient at the scores as they were before the user's score, from that at the changed ones."""
        if self.score is None:
            return gradient
        return jax.vjp(partial(self._changed, start), _scaled(q, keys))[1](gradient)[0]

    def seen(self, shape: tuple[int, ...], start: Array, *documents: Array) -> Array:
        """Which keys are `visible` to the rows, for scores of a shape [N, t, s].

        Documents, if given: the rows' [N, t, 1] and the keys' [N, s, 1].
        """
        shape = shape if documents else shape[-2:]
        t, s = (jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) + axis) for axis in (-2, -1))
        own, theirs = (documents[0], jnp.swapaxes(documents[1], -2, -1)) if documents else (None, None)
        return visible(start + t, s, own, theirs, self.window, self.rule)

    def _changed(self, start: Array, scores: Array) -> Array:
        """Scores [N, t, s] as the user's score changes them. Padding has the last position."""
        if self.score is None:
            return scores
        head = (jnp.arange(scores.shape[0]) % self.heads)[:, None, None]
        t, s = (jnp.minimum(jnp.arange(n), self.length - 1) for n in scores.shape[-2:])
        return change_scores(scores, self.score, head, jnp.minimum(start + t, self.length - 1)[:, None], s)


def _scaled(q: Array, keys: Array) -> Array:
    """q k^T / sqrt(K) of q [N, t, K] and keys [N, s, K], in at least float32."""
    scores = product("...tk,...sk->...ts", q.astype(keys.dtype), keys, at_least_float32(keys).dtype)
    return scores * q.shape[-1] ** -0.5
