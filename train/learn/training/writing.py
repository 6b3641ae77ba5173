"""Text and ids by a learner's functions: a tokenizer, the pairs of a batch, and the text that a model writes."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxllm import GPT
from jaxllm.data import batch, read_source
from jaxllm.data.shards import is_prepared
from jaxllm.data.windows import Ids
from jaxllm.tokenizers import CharTokenizer, Tokenizer, WordTokenizer
from jaxllm.utils.errors import InputError

from ...config import EvalConfig, RunConfig
from .bridge import Bridge
from .callbacks import NumpyArrays
from .loading import Functions


class LearnedChars(CharTokenizer):
    """A character tokenizer that encodes and decodes by the learner's functions; its file is one of ours."""

    def __init__(self, characters: Iterable[str], functions: Functions) -> None:
        super().__init__(characters)
        self._functions, self._vocabulary = functions, list(self.characters)

    def encode_chunk(self, text: str, start: int) -> list[int]:
        if not self._ids.keys() >= set(text):
            return super().encode_chunk(text, start)  # which names the character
        return [int(i) for i in self._functions["encode"](text, self._vocabulary)]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._functions["decode"](self.check_ids(ids), self._vocabulary))


class LearnedWords(WordTokenizer):
    """A word tokenizer that encodes and decodes by the learner's functions; its file is one of ours."""

    def __init__(self, vocabulary: Iterable[str], functions: Functions) -> None:
        self._functions, self._vocabulary = functions, list(vocabulary)
        super().__init__(self._vocabulary[:-2])

    def encode(self, text: str, allowed_special: Any = ()) -> list[int]:
        return [int(i) for i in self._functions["encode"](text, self._vocabulary)]

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._functions["decode"](self.check_ids(ids), self._vocabulary))


TOKENIZERS: dict[str, tuple[str, Callable[..., Tokenizer]]] = {
    "char": ("char_tokenizer", LearnedChars),
    "word": ("word_tokenizer", LearnedWords),
}


def tokenizer_of(bridge: Bridge, config: RunConfig) -> Tokenizer | None:
    """The tokenizer of the config's kind by their functions; None where these are not used."""
    of, kind = TOKENIZERS.get(config.tokenizer.kind or "char", ("", None))
    if kind is None or of not in bridge.functions or any(map(is_prepared, config.data.sources)):
        return None
    functions = bridge.functions[of]
    text = "".join(read_source(name, config.data.field) for name in config.data.sources)
    return kind(functions["build_vocabulary"](text), functions)


def draw_pairs(pairs: Callable[..., Any], arrays: NumpyArrays, ids: Any, length: int, *rest: Any) -> tuple[Ids, Ids]:
    """`jaxllm.data.batch` whose inputs and targets are made by their `input_target_pairs`, window by window."""
    inputs, targets = batch(ids, length, *rest)
    rows = np.concatenate([inputs, targets[:, -1:]], axis=1)
    made = [[np.asarray(arrays.plain(part)) for part in pairs(arrays.array(row), length, 1)] for row in rows]
    return tuple(np.concatenate([pair[i] for pair in made]).astype(np.int32) for i in (0, 1))  # type: ignore[return-value]


def write_text(
    probabilities: Callable[..., Any], draw: Callable[..., Any], arrays: NumpyArrays,
    model: GPT, params: Any, tokenizer: Tokenizer, config: EvalConfig, first: int, seed: int,
) -> str:  # fmt: skip
    """`train.evaluate.sample_text` by their `next_token_probabilities` and `sample`, a token at a time.

    The model reads the last tokens of the text that fit in its context, padded at their end, which no earlier position
    attends to.
    """
    ids, context = tokenizer.encode(config.prompt) or [first], model.config.context_length
    rng = np.random.default_rng(seed)
    logits_of = jax.jit(partial(_logits, model))
    for _ in range(config.sample_tokens):
        seen = ids[-context:]
        padded = np.zeros((1, context), np.int32)
        padded[0, : len(seen)] = seen
        logits = np.asarray(logits_of(params, padded), np.float64)[0, len(seen) - 1, : tokenizer.vocab_size]
        chances = probabilities(arrays.array(logits), config.temperature, None)
        token = int(draw(chances, float(rng.random())))
        if not 0 <= token < tokenizer.vocab_size:
            raise InputError(f"your sample returned {token}, but the ids are 0 to {tokenizer.vocab_size - 1}.")
        ids = [*ids, token]
    return tokenizer.decode(ids)


def _logits(model: GPT, params: Any, tokens: Any) -> Any:
    return model.apply({"params": params}, tokens)
