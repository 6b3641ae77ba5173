"""`jaxllm generate` and `jaxllm chat`: a model writes to the terminal, character by character.

llama.cpp's and transformers' streamers guess from spaces where a word is complete; here bytes are held back until they
are a whole character, and text until it cannot be the beginning of a stop string.
"""

import io
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import jax
from flax import linen as nn

from jaxllm.fast.decode import CachedBlock, CachedGPT
from jaxllm.fast.generate import Generation, start_generation, stream
from jaxllm.fast.quantised_weights import pack
from jaxllm.generate import Sampling
from jaxllm.pretrained.chat import encode_chat
from jaxllm.utils.errors import InputError, NonFiniteError
from jaxllm.utils.files import without_mark

from .config import MOST_NEW_TOKENS
from .nonfinite import non_finite
from .runs.load import TrainedRun, load_run

MOST_CHARACTERS = 1_000_000  # of a prompt, of which a model sees the end
LEAST_ROOM = 4  # what part of the context is left for an answer that may be so long


@dataclass(frozen=True)
class Options:
    """What the command line says of how to write. Raises InputError for what is out of range."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int
    stop: Sequence[str]
    weights: str

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

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty)


def _check(right: bool, option: str, value: object, allowed: str) -> None:
    if not right:
        raise InputError(f"{option} is {value}, but it must be {allowed}.")


class Writer:
    """A model ready to write: its parameters packed, and what its conversations end with."""

    def __init__(self, path: str, step: str | None, options: Options) -> None:
        run = load_run(path, step)
        self.path, self.run, self.options, self.params = path, run, options, pack(run.params, options.weights)
        self.model = CachedGPT(run.model.config, run.model.dtype, nn.jit(CachedBlock))  # it starts sooner
        self.ends = run.chat.end_tokens if run.chat else ()

    @property
    def context(self) -> int:
        return self.model.config.context_length

    def begin(self, ids: Sequence[int], seed: int, most: int) -> Generation:
        key, run, sampling = jax.random.key(seed), self.run, self.options.sampling
        size = run.tokenizer.vocab_size
        return start_generation(self.model, self.params, [ids], key, most, sampling, size, self.ends, run.begin_token)

    def tokens(self, ids: Sequence[int], seed: int, most: int) -> Iterator[int]:
        """At most so many ids that follow, up to one that ends an answer. Raises NonFiniteError."""
        try:
            for row in stream(self.begin(ids, seed, most), most):
                for token in row[0].tolist():
                    if token in self.ends:
                        return
                    yield token
        except NonFiniteError:
            raise non_finite(self.path, self.run.params) from None

    def text(self, ids: Sequence[int], seed: int, shown: Sequence[int] = ()) -> Iterator[str]:
        """The text that follows, in pieces of whole characters, up to the first stop string.

        It goes on from the ids `shown`: SentencePiece leaves the first space of a text out, and only of a text.
        """
        tokenizer = self.run.tokenizer
        whole = tokenizer.decode_stream(chain(shown, self.tokens(ids, seed, self.options.max_new_tokens)))
        return until(behind(whole, len(tokenizer.decode(shown))), self.options.stop)

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens may follow until the first one is no longer in sight; less than 1 where they do not fit."""
        return self.context - len(ids) + 1

    def answer(self, ids: Sequence[int], seed: int) -> Iterator[str]:
        """As `text`, after a conversation that fits; it ends where the context is full, and a note says so.

        To go on, it would have to leave out the template's head and the system message.
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
            _note(f"the answer ends here, where the model's context of {self.context:,} tokens is full")


def behind(pieces: Iterable[str], n: int) -> Iterator[str]:
    """The pieces without the first n characters of their text."""
    for piece in pieces:
        yield piece[n:]
        n = max(n - len(piece), 0)


def until(pieces: Iterable[str], stops: Sequence[str]) -> Iterator[str]:
    """The text of the pieces up to the first of the stop strings, which is left out.

    What may be the beginning of one is held back until it is known.
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


def generate_command(path: str, step: str | None, prompt: str, chat: bool, options: Options) -> None:
    """`jaxllm generate`: prints the prompt and its continuation, or with --chat the answer alone."""
    check_length("--prompt", prompt)
    writer = Writer(path, step, options)
    if chat:
        _, ids = _fitting(writer, [{"role": "user", "content": prompt}], 0, path, "--prompt")
        pieces = writer.answer(ids, options.seed)
    else:
        ids, shown = prompt_ids(writer.run, prompt), writer.run.tokenizer.encode(prompt)
        if len(ids) > writer.context:
            read = writer.context - (len(ids) - len(shown))
            _note(left_out("--prompt", len(shown), read, writer.context))
        _say(writer.run.tokenizer.decode(shown))
        pieces = writer.text(ids, options.seed, shown)
    try:
        for piece in pieces:
            _say(piece)
    finally:  # an error begins a line of its own
        _say("\n")


def check_length(what: str, text: str) -> None:
    """Raises InputError for a text that would take long to tokenize."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(
            f"{what} has {len(text):,} characters, but it must have at most {MOST_CHARACTERS:,}; shorten it."
        )


def left_out(what: str, n_tokens: int, read: int, context: int) -> str:
    """The note on a prompt of which a model reads only the end."""
    return (
        f"{what} has {n_tokens:,} tokens, of which the model reads the last {read:,}; its context of {context:,} holds "
        "no more, so shorten it to choose what is read"
    )


def _note(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def prompt_ids(run: TrainedRun, prompt: str) -> list[int]:
    """Its tokens, after the one with which an imported model's texts begin. Raises InputError where there are none."""
    ids = run.tokenizer.encode(prompt)
    ids = ids if run.begin_token is None else [run.begin_token, *ids]
    if not ids:
        raise InputError(f"--prompt {prompt!r} holds no token; give at least one character or word.")
    return ids


def _chat_ids(run: TrainedRun, messages: list[dict[str, str]], path: str) -> list[int]:
    tokenizer: Any = run.tokenizer
    if run.chat is None or run.chat.chat_template is None:
        raise InputError(f"{path} has no chat template; use `jaxllm generate {path} --prompt` without --chat.")
    return encode_chat(tokenizer, run.chat, messages)


def chat_command(path: str, system: str | None, options: Options) -> None:
    """`jaxllm chat`: answers line after line, until the end of the input or /exit; /reset forgets what was said."""
    writer = Writer(path, None, options)
    first = [] if system is None else [{"role": "system", "content": system}]
    what = "a question" if system is None else "--system"
    _fitting(writer, [*first, {"role": "user", "content": "?"}], len(first), path, what)  # said before one is asked
    if sys.stdin.isatty():
        print(f"{path}: a context of {writer.context:,} tokens. /reset begins anew, /exit or Ctrl-D ends.")
    messages = list(first)
    for turn, line in enumerate(_lines()):
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(first)
            continue
        try:
            check_length("the question", line)
            asked = [*messages, {"role": "user", "content": line}]
            asked, ids = _fitting(writer, asked, len(first), path, "the question")
        except InputError as error:
            _note(str(error))
            continue
        answer = ""
        for piece in writer.answer(ids, (options.seed + turn) % 2**32):
            _say(piece)
            answer += piece
        _say("\n")
        messages = [*asked, {"role": "assistant", "content": answer}]


def _fitting(
    writer: Writer, messages: list[dict[str, str]], first: int, path: str, what: str
) -> tuple[list[dict[str, str]], list[int]]:
    """The conversation and its ids, without the oldest questions and answers where an answer would have no room.

    The `first` messages stay. Raises InputError where they and the last one do not fit in the context.
    """
    ids = _chat_ids(writer.run, messages, path)
    wanted = min(writer.options.max_new_tokens, writer.context // LEAST_ROOM)
    forgotten = 0
    while writer.room(ids) < wanted and len(messages) > first + 1:
        messages = [*messages[:first], *messages[first + 2 :]]
        ids = _chat_ids(writer.run, messages, path)
        forgotten += 1
    if writer.room(ids) < 1:
        raise InputError(
            f"{what} takes {len(ids):,} tokens in the model's chat template, but its context holds "
            f"{writer.context:,}; shorten it."
        )
    if forgotten:
        pairs = "question and answer" if forgotten == 1 else f"{forgotten} questions and answers"
        _note(f"the oldest {pairs} no longer fit and are forgotten")
    return messages, ids


def _lines() -> Iterator[str]:
    """What is typed, line by line, without lines that hold nothing."""
    interactive = sys.stdin.isatty()
    mark = "\ufeff"  # at the beginning of a text from a pipe: a byte-order mark
    if isinstance(buffer := getattr(sys.stdin, "buffer", None), io.BufferedReader) and not interactive:
        without_mark(buffer.peek(4)[:4], "standard input")
    while True:
        try:
            line, mark = input("> " if interactive else "").removeprefix(mark), ""
        except EOFError:
            if interactive:
                print()
            return
        if line.strip():
            yield line.strip()
