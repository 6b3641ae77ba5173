"""How likely a model finds a text after another one: log P(continuation | context), as lm-evaluation-harness has it.

A context and its continuation are encoded as one text, so that the ids are those of running text, and white space at
the end of the context counts to the continuation. What does not fit into the model's context is cut from the left.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax import Array

from jaxllm.config import check_predicts_tokens
from jaxllm.gpt import GPT, traced_once
from jaxllm.loss import token_losses
from jaxllm.utils.errors import InputError

from ..evaluate import known_targets

LEAST_LENGTH = 8  # tokens of the shortest rows


class Completion(NamedTuple):
    """The ids of a context, at least one, and of its continuation, at least one."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """The log-probability of a continuation, and whether each of its tokens is the most likely one at its place."""

    log_prob: float  # in nats
    greedy: bool


def encode_completion(encode: Callable[[str], Sequence[int]], context: str, continuation: str) -> Completion:
    """The ids of both texts; the continuation has those that follow the context's own ids in the joined text.

    Either may come out empty: an empty text, and a continuation that merges with the end of the context.

    >>> encode_completion(lambda text: [ord(c) for c in text], "is ", "b")
    Completion(context=(105, 115), continuation=(32, 98))
    """
    kept = context.rstrip()
    ids = tuple(encode(kept))
    return Completion(ids, tuple(encode(context + continuation))[len(ids) :])


def n_cut(pair: Completion, context_length: int) -> int:
    """How many ids of a pair's context do not fit: the model reads all ids of the pair but the last one."""
    return max(0, len(pair.context) + len(pair.continuation) - 1 - context_length)


def likelihoods(
    model: GPT, params: Any, most_tokens: int
) -> Callable[[Sequence[Completion], Callable[[int], None]], list[Likelihood]]:
    """A function pairs, report -> the likelihoods of the pairs, in their order.

    A batch has about `most_tokens` tokens, and batches of the same length share a compiled program. Raises InputError
    for a classifier, and for a model that sees what it predicts. The function calls `report` with the number of pairs
    done. It raises ValueError for a pair with an empty part, or with a continuation longer than the model's context.
    """
    config, step = model.config, make_step(model)
    check_predicts_tokens(config)
    if known_targets(config) is not None:
        raise InputError(
            f"model.visible is {config.visible}, by which positions see what they predict, so that a text has no "
            "likelihood; use a rule that hides s > t from t."
        )

    def of(pairs: Sequence[Completion], report: Callable[[int], None]) -> list[Likelihood]:
        found: dict[int, Likelihood] = {}
        for batch in batches(pairs, config.context_length, most_tokens):
            log_probs, best = (np.asarray(x) for x in step(params, batch.inputs, batch.targets))
            for i, here in batch.places.items():
                found[i] = Likelihood(math.fsum(log_probs[here]), bool(best[here].all()))
            report(len(found))
        return [found[i] for i in range(len(pairs))]

    return of


def make_step(model: GPT) -> Callable[[Any, Any, Any], tuple[Array, Array]]:
    """The jitted function params, inputs [B, T], targets [B, K, T] -> log-probabilities, and whether each is largest.

    Both are [B, K, T], the first in at least float32. All K texts of a row are predicted from the same inputs.
    """

    @jax.jit
    def step(params: Any, inputs: Array, targets: Array) -> tuple[Array, Array]:
        logits = cast(Array, traced_once(model).apply({"params": params}, inputs))
        losses = jax.vmap(token_losses, in_axes=(None, 1), out_axes=1)(logits, targets)
        return -losses, targets == logits.argmax(-1)[:, None]

    return step


class TextBatch(NamedTuple):
    """Rows of one length, and where in the targets each pair's continuation is."""

    inputs: np.ndarray  # [B, T] int32
    targets: np.ndarray  # [B, K, T] int32
    places: dict[int, tuple[int, int, slice]]  # by a pair's number: row, text of the row, positions


def batches(pairs: Sequence[Completion], context_length: int, most_tokens: int) -> Iterator[TextBatch]:
    """All pairs, the longest first, padded on the right, which no earlier position sees.

    Pairs that differ only in their last id, such as the answers " A" and " B" to a question, are texts of one row: the
    model reads the row once. All batches of a length have the same shape.
    """
    rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i, pair in enumerate(pairs):
        rows[_inputs(pair, context_length)].append(i)
    by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for inputs in rows:
        by_length[padded_length(len(inputs), context_length)].append(inputs)
    for length, of_length in sorted(by_length.items(), reverse=True):
        n_rows = min(len(of_length), max(1, most_tokens // length))
        shape = n_rows, max(len(rows[inputs]) for inputs in of_length), length
        for start in range(0, len(of_length), n_rows):
            yield _batch([(inputs, rows[inputs]) for inputs in of_length[start : start + n_rows]], pairs, shape)


def _inputs(pair: Completion, context_length: int) -> tuple[int, ...]:
    """The ids that the model reads: without the last one, cut from the left to what fits."""
    if not pair.context or not 0 < len(pair.continuation) <= context_length:
        raise ValueError(f"{pair} needs a context, and a continuation of 1 to {context_length} ids.")
    return (*pair.context, *pair.continuation)[-context_length - 1 : -1]


def padded_length(n: int, longest: int) -> int:
    """The least length for n ids among the powers of 2, three quarters of them, and the longest.

    >>> [padded_length(n, 100) for n in (1, 8, 9, 13, 17, 25, 97)]
    [8, 8, 12, 16, 24, 32, 100]
    """
    power = max(LEAST_LENGTH, 1 << (n - 1).bit_length())
    three_quarters = power * 3 // 4
    return min(longest, three_quarters if n <= three_quarters and three_quarters >= LEAST_LENGTH else power)


def _batch(
    rows: Sequence[tuple[tuple[int, ...], list[int]]], pairs: Sequence[Completion], shape: tuple[int, int, int]
) -> TextBatch:
    """The rows, each with the numbers of its pairs, in arrays [B, T] and [B, K, T]."""
    n_rows, n_texts, length = shape
    inputs, targets = np.zeros((n_rows, length), np.int32), np.zeros((n_rows, n_texts, length), np.int32)
    places = {}
    for row, (ids, numbers) in enumerate(rows):
        inputs[row, : len(ids)] = ids
        for k, i in enumerate(numbers):
            targets[row, k, : len(ids)] = (*ids[1:], pairs[i].continuation[-1])
            places[i] = row, k, slice(len(ids) - len(pairs[i].continuation), len(ids))
    return TextBatch(inputs, targets, places)
