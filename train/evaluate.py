"""Validation loss over a whole split, and a sample of text."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from jaxllm.attention import visible
from jaxllm.config import GPTConfig, check_predicts_tokens
from jaxllm.data.batches import evaluation_batches, n_targets
from jaxllm.data.id_sequences import IdSequence
from jaxllm.fast.attention import looks_ahead
from jaxllm.generate import Sampling, generate
from jaxllm.gpt import GPT
from jaxllm.tokenizers import Tokenizer, WordTokenizer
from jaxllm.utils.errors import InputError

from .config import EvalConfig, RunConfig, row_length
from .parallel.placing import divisible_length, put_whole
from .step import make_eval_step

AHEAD = 16  # batches dispatched before the first one's loss is fetched
CHUNK = 2**20  # ids decoded at a time


class Abandoned(Exception):
    """An evaluation was ended before it was complete."""


def evaluator(
    model: GPT,
    config: RunConfig,
    abandon: Callable[[], bool] = lambda: False,
    begin: int | None = None,
    mesh: Mesh | None = None,
) -> Callable[[Any, IdSequence], float]:
    """A function params, ids -> mean cross-entropy in nats per token over all ids but the first.

    With `begin`, the id that each window begins with, it is over all ids. Where `model.visible` looks ahead, targets
    that the model sees are left out. The function calls `abandon` before each batch and raises Abandoned when it
    returns True. It raises InputError for a rule that shows every position its target. On a `mesh` the parameters are
    those of the state, which lie there. Raises InputError for a classifier.
    """
    check_predicts_tokens(model.config)
    eval_step, batch_size = make_eval_step(model, mesh), evaluation_rows(config)
    longest, known_in = row_length(model.config, config.train), cache(partial(known_targets, model.config))

    def evaluate(params: Any, ids: IdSequence) -> float:
        sums: list[float] = []
        dispatched: deque[Array] = (
            deque()
        )  # a loss is fetched while others are computed, so that the device never waits
        n, left_out = n_targets(ids, begin), 0
        length = min(longest, divisible_length(mesh, n))  # a short text is not padded to the whole context
        known = known_in(length)
        # In a window with one token more, the last target of the context is there to be seen.
        if known is not None and (longer := known_in(longest + 1)) is not None and longer[:longest].all():
            raise InputError(
                f"model.visible is {model.config.visible}, by which every position sees its target: nothing is left to "
                "evaluate; hide s = t + 1 from t somewhere in the context."
            )
        for inputs, targets, weights in evaluation_batches(ids, length, batch_size, begin):
            if abandon():
                raise Abandoned
            if known is not None:
                left_out += int(weights[:, known].sum())
                weights[:, known] = 0
            dispatched.append(eval_step(params, *put_whole(mesh, inputs, targets, weights)))
            if len(dispatched) > AHEAD:
                sums.append(float(dispatched.popleft()))
        return math.fsum([*sums, *map(float, dispatched)]) / (n - left_out)

    return evaluate


def evaluation_rows(config: RunConfig) -> int:
    """The windows of a batch: those of a microbatch, because what fits in training fits here."""
    return config.train.batch_size // config.train.grad_accumulation


def known_targets(config: GPTConfig, length: int | None = None) -> np.ndarray | None:
    """At which positions the model sees its target, through any number of blocks: bool [T]; None if at none.

    A window has T = `length` tokens, by default the context. The target of its last position is not one of them, so
    that no rule shows it. Documents are left out of account.
    """
    length, rule = length or config.context_length, config.visible
    if rule is None or not looks_ahead(rule, length, config.separator is not None):
        return None
    places = jnp.arange(length)
    reached = np.asarray(visible(places[:, None], places[None, :], rule=rule)) | np.eye(length, dtype=bool)
    for _ in range(length.bit_length()):
        reached = (reached.astype(np.float32) @ reached.astype(np.float32)) > 0
    return np.append(np.diagonal(reached, offset=1), False)


@dataclass(frozen=True)
class Scores:
    """The scores that `jaxllm evaluate` prints."""

    loss: float  # nats per token
    n_targets: int
    n_bytes: int | None  # of the targets' text; None if the tokenizer does not keep it

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text: comparable between tokenizers."""
        return self.loss * self.n_targets / math.log(2) / self.n_bytes if self.n_bytes else None


def score(loss: float, ids: IdSequence, tokenizer: Tokenizer, begin: int | None = None) -> Scores:
    """The loss over the targets, ids[1:] or with a `begin` all ids, with their text's length in bytes.

    A word tokenizer does not keep the text, so its number of bytes is None.
    """
    n = n_targets(ids, begin)
    if isinstance(tokenizer, WordTokenizer):
        return Scores(loss, n, None)
    chunks = (ids[i : min(i + CHUNK, len(ids))].tolist() for i in range(len(ids) - n, len(ids), CHUNK))
    n_bytes = sum(len(tokenizer.decode_bytes(chunk)) for chunk in chunks)
    if begin is not None:  # the first token counts, but not the space that SentencePiece puts before it
        first = ids[:1].tolist()
        n_bytes -= len(tokenizer.decode_bytes(first)) - len(tokenizer.text_bytes(first))
    return Scores(loss, n, n_bytes)


def sample_text(model: GPT, params: Any, tokenizer: Tokenizer, config: EvalConfig, first: int, seed: int) -> str:
    """The prompt and its continuation by the model; an empty prompt begins with the id `first`."""
    prompt = tokenizer.encode(config.prompt) or [first]
    sampling = Sampling(config.temperature)
    tokens = generate(
        model, params, [prompt], jax.random.key(seed), config.sample_tokens, sampling, tokenizer.vocab_size
    )
    return tokenizer.decode([*prompt, *tokens[0].tolist()])
