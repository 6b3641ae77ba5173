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

from jaxllm import GPT
from jaxllm.errors import InputError
from jaxllm.generate import Generation, Sampling, begin, stream
from jaxllm.packed import pack
from jaxllm.pretrained.chat import encode_chat
from train.config import MOST_NEW_TOKENS
from train.trained import TrainedRun, load_run

MOST_CHARACTERS = 1_000_000  # of a prompt, of which a model sees the end


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
        self.run, self.options, self.params = run, options, pack(run.params, options.weights)
        self.model = GPT(run.model.config, run.model.dtype, trace_once=True)  # 30 layers start in half the time
        self.ends = run.chat.end_tokens if run.chat else ()

    def begin(self, ids: Sequence[int], seed: int) -> Generation:
        o = self.options
        key = jax.random.key(seed)
        run = self.run
        return begin(
            self.model, self.params, [ids], key, o.max_new_tokens, o.sampling, run.tokenizer.vocab_size, self.ends
        )

    def tokens(self, ids: Sequence[int], seed: int) -> Iterator[int]:
        """The ids that follow, up to one that ends an answer."""
        for row in stream(self.begin(ids, seed), self.options.max_new_tokens):
            for token in row[0].tolist():
                if token in self.ends:
                    return
                yield token

    def text(self, ids: Sequence[int], seed: int, shown: Sequence[int] = ()) -> Iterator[str]:
        """The text that follows, in pieces of whole characters, up to the first stop string.

        It goes on from the ids `shown`: SentencePiece leaves the first space of a text out, and only of a text.
        """
        tokenizer = self.run.tokenizer
        whole = tokenizer.decode_stream(chain(shown, self.tokens(ids, seed)))
        return until(behind(whole, len(tokenizer.decode(shown))), self.options.stop)


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
    if len(prompt) > MOST_CHARACTERS:
        raise InputError(
            f"--prompt has {len(prompt):,} characters, but it must have at most {MOST_CHARACTERS:,}; the model sees "
            "only the last model.context_length tokens, so give the end of the text."
        )
    _let_all_characters_through()
    writer = Writer(path, step, options)
    shown: list[int] = []
    if chat:
        ids = _chat_ids(writer.run, [{"role": "user", "content": prompt}], path)
    else:
        ids, shown = prompt_ids(writer.run, prompt), writer.run.tokenizer.encode(prompt)
        _say(writer.run.tokenizer.decode(shown))
    for piece in writer.text(ids, options.seed, shown):
        _say(piece)
    _say("\n")


def _let_all_characters_through() -> None:
    """What the terminal's encoding has not is escaped, and bytes that are none of it are replaced."""
    for file, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(file, io.TextIOWrapper):  # not where somebody has put another in its place
            file.reconfigure(errors=errors)


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
    _let_all_characters_through()
    writer = Writer(path, None, options)
    first = [] if system is None else [{"role": "system", "content": system}]
    _chat_ids(writer.run, [*first, {"role": "user", "content": "?"}], path)  # said before anything is asked
    context = writer.run.model.config.context_length
    if sys.stdin.isatty():
        print(f"{path}: a context of {context:,} tokens. /reset begins anew, /exit or Ctrl-D ends.")
    messages = list(first)
    for turn, line in enumerate(_lines()):
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(first)
            continue
        messages.append({"role": "user", "content": line})
        ids = _fitting(writer, messages, len(first), path)
        answer = ""
        for piece in writer.text(ids, (options.seed + turn) % 2**32):
            _say(piece)
            answer += piece
        _say("\n")
        messages.append({"role": "assistant", "content": answer})


def _fitting(writer: Writer, messages: list[dict[str, str]], first: int, path: str) -> list[int]:
    """The conversation's ids; where it has filled the context, its oldest question and answer are dropped."""
    ids = _chat_ids(writer.run, messages, path)
    context = writer.run.model.config.context_length
    while len(ids) + 1 >= context and len(messages) > first + 1:
        del messages[first : first + 2]
        print("(the oldest question and answer no longer fit and are forgotten)", file=sys.stderr)
        ids = _chat_ids(writer.run, messages, path)
    return ids


def _lines() -> Iterator[str]:
    """What is typed, line by line, without lines that hold nothing."""
    interactive = sys.stdin.isatty()
    while True:
        try:
            line = input("> " if interactive else "")
        except EOFError:
            if interactive:
                print()
            return
        if line.strip():
            yield line.strip()[:MOST_CHARACTERS]
