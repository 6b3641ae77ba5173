"""A model that writes text: how it may write, what fits into its context, and its text piece by piece.

Bytes are held back until they are a whole character, and text until it cannot be the beginning of a stop string.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxllm.fast.cached_gpt import CachedBlock, CachedGPT
from jaxllm.fast.few_rows import why_not_compiled
from jaxllm.fast.generate import start_generation, stream, why_not_cached
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling, generate
from jaxllm.gpt import GPT
from jaxllm.lookup import MOST_DRAFTED
from jaxllm.pretrained.chat import encode_chat
from jaxllm.utils.errors import InputError, NonFiniteError

from .config import MOST_NEW_TOKENS
from .ideas import Code
from .nonfinite import non_finite
from .notes import print_note
from .runs.load import TrainedRun, load_run

MOST_CHARACTERS = 1_000_000  # of a prompt, so that tokenizing it does not take long
LEAST_ROOM = 4  # an answer that may be that long has at least 1 / LEAST_ROOM of the context
CONTINUES = {"temperature": 0.8}
ANSWERS = {"temperature": 0.2, "top_p": 0.9}  # as SmolLM2's model card recommends


@dataclass(frozen=True)
class Options:
    """How to write, as the command line says. Raises InputError for what is out of range."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int
    stop: Sequence[str]
    weights: str
    lookup: int

    def __post_init__(self) -> None:
        most = MOST_NEW_TOKENS
        _check(1 <= self.max_new_tokens <= most, "--max-new-tokens", self.max_new_tokens, f"from 1 to {most:,}")
        _check(0 <= self.temperature < math.inf, "--temperature", self.temperature, "a finite number, 0 or more")
        _check(self.top_k is None or 1 <= self.top_k < 2**31, "--top-k", self.top_k, "at least 1")
        _check(self.top_p is None or 0 < self.top_p <= 1, "--top-p", self.top_p, "above 0 and at most 1")
        _check(self.min_p is None or 0 <= self.min_p <= 1, "--min-p", self.min_p, "from 0 to 1")
        penalty = self.repetition_penalty
        _check(penalty is None or 0 < penalty <= 100, "--repetition-penalty", penalty, "above 0 and at most 100")
        _check(0 <= self.seed < 2**32, "--seed", self.seed, "from 0 to 2**32 - 1")
        _check("" not in self.stop, "--stop", "empty", "at least one character")
        _check(0 <= self.lookup <= MOST_DRAFTED, "--lookup", self.lookup, f"from 0 to {MOST_DRAFTED}")
        _check(not self.lookup or self.temperature == 0, "--temperature", self.temperature, "0 with --lookup")

    @classmethod
    def of(cls, arguments: argparse.Namespace, answers: bool) -> "Options":
        """The options of a command line; answers are sampled closer to the most likely tokens by default.

        With drafted tokens nothing is sampled.
        """
        given = {field.name: getattr(arguments, field.name) for field in fields(cls)}
        defaults = {"temperature": 0.0} if arguments.lookup else ANSWERS if answers else CONTINUES
        return cls(**given | {name: value for name, value in defaults.items() if given[name] is None})

    @property
    def sampling(self) -> Sampling:
        """The part of it that chooses tokens."""
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


def _check(right: bool, option: str, value: object, allowed: str) -> None:
    if not right:
        raise InputError(f"{option} is {value}, but it must be {allowed}.")


class Writer:
    """The model of a run, ready to write: its parameters packed, and the tokens that end its answers.

    A model that cannot be read through the cache is given whole texts, and its own block unpacked parameters. Raises
    InputError for a classifier.
    """

    def __init__(self, path: str, step: str | None, options: Options, code: Code | None = None) -> None:
        run = load_run(path, step, code=code)
        config, weights = run.model.config, options.weights
        if config.n_classes:
            raise InputError(f"{path} is a classifier, which writes no text; use `jaxllm classify {path} --text TEXT`.")
        _check(config.block is None or weights == "float32", "--weights", weights, f"float32 with {config.block}")
        self.path, self.run, self.options = path, run, options
        self.params = pack(run.params, weights) if config.block is None else run.params
        self.model: GPT = CachedGPT(config, run.model.dtype, nn.jit(CachedBlock))  # it starts sooner
        if reason := why_not_cached(self.model):
            self.model = GPT(config, run.model.dtype)
            self.params = jax.tree.map(jnp.asarray, self.params)
            print_note(
                f"{reason}; each token takes as long as reading the whole text, which appears when it is complete"
            )
        elif reason := why_not_compiled():
            print_note(f"text is written more slowly than it could be: {reason}")
        self.ends = run.chat.end_tokens if run.chat else ()

    @property
    def context(self) -> int:
        """The most tokens that the model can look at."""
        return self.model.config.context_length

    def drawn(self, ids: Sequence[int], seed: int, most: int) -> Iterator[np.ndarray]:
        """At most so many tokens after these ids, [1, N] at a time."""
        key, size, run = jax.random.key(seed), self.run.tokenizer.vocab_size, self.run
        options = self.options
        rest = ([ids], key, most, options.sampling, size, self.ends, run.begin_token, options.lookup)
        if isinstance(self.model, CachedGPT):
            yield from stream(start_generation(self.model, self.params, *rest), most)
        else:
            yield generate(self.model, self.params, *rest)

    def tokens(self, ids: Sequence[int], seed: int, most: int) -> Iterator[int]:
        """At most so many ids that follow, up to a token that ends an answer. Raises NonFiniteError."""
        try:
            for row in self.drawn(ids, seed, most):
                for token in row[0].tolist():
                    if token in self.ends:
                        return
                    yield token
        except NonFiniteError:
            raise non_finite(self.path, self.run.params) from None

    def text(self, ids: Sequence[int], seed: int, shown: Sequence[int] = ()) -> Iterator[str]:
        """The text that follows, in pieces of whole characters, up to the first stop string.

        It continues the text of the ids `shown`: SentencePiece drops a space at the beginning of a text only.
        """
        tokenizer = self.run.tokenizer
        whole = tokenizer.decode_stream(chain(shown, self.tokens(ids, seed, self.options.max_new_tokens)))
        return until(behind(whole, len(tokenizer.decode(shown))), self.options.stop)

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens may follow while all ids stay in the context; less than 1 where the ids do not fit."""
        return self.context - len(ids) + 1

    def answer(self, ids: Sequence[int], seed: int) -> Iterator[str]:
        """As `text`, after a conversation that fits. It ends, with a note, where the context is full.

        To go on, the model would have to forget the head of the template and the system message.
        """
        room, n = self.room(ids), 0

        def counted() -> Iterator[int]:
            nonlocal n
            for token in self.tokens(ids, seed, min(room, self.options.max_new_tokens)):
                n += 1
                yield token

        yield from until(self.run.tokenizer.decode_stream(counted()), self.options.stop)
        if n == room < self.options.max_new_tokens:
            print(file=sys.stderr)
            print_note(f"the answer ends here, where the model's context of {self.context:,} tokens is full")


def behind(pieces: Iterable[str], n: int) -> Iterator[str]:
    """The pieces without the first n characters of their text."""
    for piece in pieces:
        yield piece[n:]
        n = max(n - len(piece), 0)


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of the pieces up to the first stop string, which is left out.

    Text that may be the beginning of a stop string is held back until more of it is known.
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [held.index(stop) for stop in stops if stop in held]
        if found:
            yield held[: min(found)]
            return
        keep = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def show(pieces: Iterable[str]) -> str:
    """Write each piece to standard output as soon as it is there, then a new line; returns the whole text.

    The line ends after an error too, so that its message has a line of its own.
    """
    text = ""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            text += piece
    finally:
        print(flush=True)
    return text


def check_length(what: str, text: str) -> None:
    """Raises InputError for a text that would take long to tokenize."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"{what} has {len(text):,} characters, but it must have at most {MOST_CHARACTERS:,}; shorten it."
        )


def prompt_ids(run: TrainedRun, prompt: str) -> list[int]:
    """The ids of a prompt, after the begin token of an imported model. Raises InputError where there are none."""
    ids = run.tokenizer.encode(prompt)
    ids = ids if run.begin_token is None else [run.begin_token, *ids]
    if not ids:
        raise InputError(f"--prompt {prompt!r} holds no token; give at least one character or word.")
    return ids


Messages = list[dict[str, str]]  # a conversation, each message with a role and a content


def fit_conversation(writer: Writer, messages: Messages, first: int, what: str) -> tuple[Messages, list[int]]:
    """The conversation and its ids, without the oldest questions and answers where an answer would have no room.

    The `first` messages stay. Raises InputError where they and the last one, named `what`, do not fit in the context.
    """
    ids = _chat_ids(writer, messages)
    wanted = min(writer.options.max_new_tokens, writer.context // LEAST_ROOM)
    forgotten = 0
    while writer.room(ids) < wanted and len(messages) > first + 1:
        messages = [*messages[:first], *messages[first + 2 :]]
        ids = _chat_ids(writer, messages)
        forgotten += 1
    if writer.room(ids) < 1:
        raise InputError(
            f"{what} takes {len(ids):,} tokens in the model's chat template, but its context holds "
            f"{writer.context:,}; shorten it."
        )
    if forgotten:
        pairs = "question and answer" if forgotten == 1 else f"{forgotten} questions and answers"
        print_note(f"the oldest {pairs} no longer fit and are forgotten")
    return messages, ids


def _chat_ids(writer: Writer, messages: Messages) -> list[int]:
    tokenizer: Any = writer.run.tokenizer
    chat, path = writer.run.chat, writer.path
    if chat is None or chat.chat_template is None:
        raise InputError(f"{path} has no chat template; use `jaxllm generate {path} --prompt` without --chat.")
    return encode_chat(tokenizer, chat, messages)
