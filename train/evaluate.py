"""Validation loss over a whole split, and a sample of text."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.data import evaluation_batches
from jaxllm.data.pairs import Ids
from jaxllm.generate import generate
from jaxllm.gpt import GPT
from jaxllm.tokenizers import Tokenizer, WordTokenizer
from train.config import EvalConfig, RunConfig
from train.step import make_eval_step


def evaluator(model: GPT, config: RunConfig) -> Callable[[Any, Ids], float]:
    """A function params, ids -> mean cross-entropy in nats per token over all ids but the first."""
    eval_step = make_eval_step(model)
    batch_size = config.train.batch_size // config.train.grad_accumulation  # what fits in training fits here

    def evaluate(params: Any, ids: Ids) -> float:
        batches = evaluation_batches(ids, model.config.context_length, batch_size)
        sums = [eval_step(params, *batch) for batch in batches]  # fetched only when all are under way
        return math.fsum(float(s) for s in sums) / (len(ids) - 1)

    return evaluate


@dataclass(frozen=True)
class Scores:
    """What `jaxllm evaluate` prints."""

    loss: float  # nats per token
    n_targets: int
    n_bytes: int | None  # of the text behind the targets; None where the tokenizer does not keep it

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss) if self.loss < 700 else math.inf

    @property
    def bits_per_byte(self) -> float | None:
        """Bits per byte of text: comparable between tokenizers."""
        return self.loss * self.n_targets / math.log(2) / self.n_bytes if self.n_bytes else None


def score(loss: float, ids: Ids, tokenizer: Tokenizer) -> Scores:
    """The loss over ids[1:] with its text's length in bytes. A word tokenizer does not keep the text."""
    kept = not isinstance(tokenizer, WordTokenizer)
    n_bytes = len(tokenizer.decode_bytes(ids[1:].tolist())) if kept else None
    return Scores(loss, len(ids) - 1, n_bytes)


def sample_text(model: GPT, params: Any, tokenizer: Tokenizer, config: EvalConfig, first: int, seed: int) -> str:
    """The prompt and what the model makes of it; an empty prompt begins with the id `first`."""
    prompt = tokenizer.encode(config.prompt) or [first]
    tokens = generate(
        model, params, jnp.array([prompt]), jax.random.key(seed), config.sample_tokens, config.temperature,
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    return tokenizer.decode([*prompt, *np.asarray(tokens[0]).tolist()])
