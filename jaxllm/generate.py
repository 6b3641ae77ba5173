"""Sampling text from a model, one token after another.

A row's tokens do not depend on the other rows: each row draws with a key of its own. When a row has filled the model's
context, its older half is dropped; from then on the model sees between half a context and a whole one. A begin token
stays the first token that the model sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Key

from jaxllm.array import Array
from jaxllm.config import check_predicts_tokens
from jaxllm.fast import has_fast_form
from jaxllm.gpt import GPT
from jaxllm.lookup import MOST_DRAFTED
from jaxllm.sampling import min_p, repetition_penalty, scale_temperature, top_k, top_p
from jaxllm.utils.errors import InputError, NonFiniteError


@jax.tree_util.register_pytree_node_class
@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn from logits; None leaves a rule out, temperature 0 takes the most likely token.

    The order is that of transformers: repetition penalty, temperature, top-k, top-p, min-p. As a pytree it has static
    parts (k, which rules are left out, whether the temperature is 0); the other numbers are its leaves.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken. A temperature that is an array counts as not 0."""
        return isinstance(self.temperature, int | float) and self.temperature == 0

    def tree_flatten(self) -> tuple[tuple[Any, ...], tuple[bool, int | None]]:
        """The leaves and the static parts."""
        temperature = None if self.greedy else self.temperature
        return (temperature, self.top_p, self.min_p, self.repetition_penalty), (self.greedy, self.top_k)

    @classmethod
    def tree_unflatten(cls, constants: tuple[bool, int | None], arguments: tuple[Any, ...]) -> "Sampling":
        """The inverse of `tree_flatten`."""
        greedy, k = constants
        temperature, p, least, penalty = arguments
        return cls(0.0 if greedy else temperature, k, p, least, penalty)


PLAIN = Sampling()


def draw(
    logits: Float[Array, "B V"], keys: Key[Array, "B"], sampling: Sampling, seen: Bool[Array, "B V"] | None = None
) -> Int[Array, "B"]:
    """One token per row; `seen` marks the tokens of the text, which the repetition penalty makes less likely."""
    if sampling.repetition_penalty is not None and seen is not None:
        logits = repetition_penalty(logits, seen, sampling.repetition_penalty)
    if sampling.greedy:
        return largest(logits)
    least_temperature = jnp.finfo(logits.dtype).tiny  # processors flush smaller numbers to 0
    logits = logits - logits.max(-1, keepdims=True)  # no overflow where the temperature is tiny
    logits = scale_temperature(logits, jnp.maximum(sampling.temperature, least_temperature))
    logits = logits if sampling.top_k is None else top_k(logits, sampling.top_k)
    logits = logits if sampling.top_p is None else top_p(logits, sampling.top_p)
    logits = logits if sampling.min_p is None else min_p(logits, sampling.min_p)
    noise = jax.vmap(lambda key, row: jax.random.gumbel(key, row.shape, row.dtype))(keys, logits)
    return largest(logits + noise)  # the Gumbel-max trick: a draw from softmax(logits)


@has_fast_form
def largest(x: Float[Array, "B V"]) -> Int[Array, "B"]:
    """The index of each row's largest number, the first of equal ones."""
    return jnp.argmax(x, axis=-1).astype(jnp.int32)


def draw_keys(key: Key[Array, ""], n_drawn: Int[Array, ""] | int, n_rows: int) -> Key[Array, "{n_rows}"]:
    """The keys with which the rows draw their token number `n_drawn`."""
    rows = jnp.arange(n_rows)
    return jax.vmap(lambda row: jax.random.fold_in(jax.random.fold_in(key, n_drawn), row))(rows)


@has_fast_form
def generate(
    model: GPT, params: Any, prompts: Any, key: Key[Array, ""], max_new_tokens: int, sampling: Sampling = PLAIN,
    vocab_size: int | None = None, stop_tokens: Sequence[int] = (), begin_token: int | None = None, lookup: int = 0,
) -> Int[np.ndarray, "B N"]:  # fmt: skip
    """Continue prompts, an array [B, P] or a list of lists of ids; returns the at most `max_new_tokens` drawn tokens.

    Generation ends early when every row has drawn a stop token, which is repeated to the end of its row. Ids from
    `vocab_size` on, with which a model's vocabulary may be padded, are never drawn. The same key gives the same tokens,
    and a row's tokens do not depend on the other rows. Only the end of a prompt longer than the context is read. A
    `begin_token`, with which the prompts begin, stays the first token that the model sees, in place of the oldest one.

    With `lookup`, so many tokens at a time are drafted by looking up where the last ones stood before
    (`jaxllm.lookup`). That changes how often the model reads, not what it is asked for, so this formula needs none.

    Raises InputError for a classifier and for what `check_lookup` refuses, ValueError for an empty prompt and for
    `max_new_tokens` below 1, and NonFiniteError where a token would be drawn from logits that hold NaN or infinity;
    -inf excludes a token.
    """
    context, ids = model.config.context_length, jnp.arange(model.config.vocab_size)
    check_predicts_tokens(model.config)
    check_lookup(lookup, sampling)
    texts = cut_prompts(prompts, context, max_new_tokens, begin_token)
    starts, done = [0] * len(texts), np.zeros(len(texts), bool)
    for n_drawn in range(max_new_tokens):
        for i, text in enumerate(texts):
            if len(text) - starts[i] > context:
                starts[i] = len(text) - 1 - context // 2
        in_sight = [_in_sight(text, start, begin_token) for text, start in zip(texts, starts, strict=True)]
        logits = jnp.concatenate([_last_logits(model, params, row) for row in in_sight])
        seen = jnp.stack([jnp.isin(ids, text) for text in texts])
        if not bool((jnp.isfinite(logits[:, :vocab_size].max(-1)) | done).all()):
            raise non_finite_logits()
        keys = draw_keys(key, n_drawn, len(texts))
        tokens = np.asarray(draw(logits[:, :vocab_size], keys, sampling, seen[:, :vocab_size]))
        tokens = np.where(done, [text[-1] for text in texts], tokens)
        texts = [np.append(text, token) for text, token in zip(texts, tokens, strict=True)]
        done = done | np.isin(tokens, stop_tokens)
        if done.all():
            break
    return np.stack([text[-n_drawn - 1 :] for text in texts]).astype(np.int32)


def check_lookup(lookup: int, sampling: Sampling) -> None:
    """Raises InputError for a number of drafted tokens out of range, and for drafts of tokens drawn at random."""
    if not 0 <= lookup <= MOST_DRAFTED:
        raise InputError(f"lookup is {lookup}, but it must be from 0 to {MOST_DRAFTED}.")
    if lookup and not sampling.greedy:
        raise InputError(
            f"lookup is {lookup} at a temperature of {sampling.temperature}, but drafted tokens are compared with the "
            "most likely ones; set the temperature to 0 or leave lookup out."
        )


def cut_prompts(prompts: Any, context: int, max_new_tokens: int, begin_token: int | None) -> list[np.ndarray]:
    """The part of each prompt that fits into the context: all, or its end. Raises ValueError as `generate` does."""
    rows = [np.asarray(row, np.int32) for row in prompts]
    if min(len(row) for row in rows) < 1:
        raise ValueError("a prompt holds no token; give each at least one.")
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens}, but it must be at least 1.")
    return [_in_sight(row, max(0, len(row) - context), begin_token) for row in rows]


def _last_logits(model: GPT, params: Any, text: np.ndarray) -> Float[Array, "1 V"]:
    """The logits of the token that follows a text [N]."""
    return cast(Array, model.apply({"params": params}, text[None]))[:, -1]


def _in_sight(text: np.ndarray, start: int, begin_token: int | None) -> np.ndarray:
    """The text [N] from `start` on; if that cuts it, the begin token replaces the first token that is left."""
    if start == 0 or begin_token is None:
        return text[start:]
    return np.concatenate([np.array([begin_token], np.int32), text[start + 1 :]])


def non_finite_logits() -> NonFiniteError:
    """The error for logits from which nothing can be drawn."""
    return NonFiniteError("the model computes non-finite logits; look for NaN in its parameters.")
