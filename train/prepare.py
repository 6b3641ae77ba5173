"""From a config to everything a run needs in memory: tokenizer, model shape, ids. Nothing is written here."""

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import read_source, split_ids
from jaxllm.data.pairs import Ids
from jaxllm.errors import InputError
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer
from train.config import RunConfig, TokenizerConfig
from train.report import counted


@dataclass(frozen=True)
class Prepared:
    """A checked config and what follows from its data."""

    config: RunConfig  # resolved
    tokenizer: Tokenizer
    model: GPTConfig
    train_ids: Ids
    validation_ids: Ids


def prepare(config: RunConfig, tokenizer: Tokenizer | None = None) -> Prepared:
    """Read the text, train (or take) the tokenizer, encode and split.

    Raises InputError for everything about config and data that would stop the run later.
    """
    text = read_source(config.data.source)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _check_text(config, digest, len(text))
    tokenizer = tokenizer or train_tokenizer(config.tokenizer, text)
    model = config.model.with_vocabulary(tokenizer.vocab_size)
    ids = np.asarray(tokenizer.encode(text), np.int32)
    train_ids, validation_ids = split_ids(ids, model.context_length)
    _check_prompt(config.eval.prompt, tokenizer)
    return Prepared(config.resolved(model, digest, len(text)), tokenizer, model, train_ids, validation_ids)


def train_tokenizer(config: TokenizerConfig, text: str) -> Tokenizer:
    """The tokenizer of that kind, learned from the whole text."""
    if config.kind == "gpt2":
        return BPETokenizer.gpt2()
    if config.kind == "bpe":
        assert config.vocab_size is not None  # TokenizerConfig has checked it
        with warnings.catch_warnings(record=True) as caught, counted("learning byte pairs", config.vocab_size) as tell:
            tokenizer = BPETokenizer.train(text, config.vocab_size, progress=tell)
        for warning in caught:
            print(f"note: {warning.message}")
        return tokenizer
    if config.kind == "word":
        return WordTokenizer.train(text, config.vocab_size)
    return CharTokenizer.train(text)


def _check_text(config: RunConfig, digest: str, length: int) -> None:
    expected, characters = config.data.sha256, config.data.characters
    if (expected and expected != digest) or (characters and characters != length):
        raise InputError(
            f"data.source {config.data.source!r} has {length} characters and sha256 {digest}, not the "
            f"{characters or 'same number'} and {expected or 'same digest'} that the config states; the text has "
            "changed (the Python docs differ between Python versions): bring the old one back or start a new run."
        )


def _check_prompt(prompt: str, tokenizer: Tokenizer) -> None:
    try:
        tokenizer.encode(prompt)
    except InputError as error:
        raise InputError(f"eval.prompt: {error}") from None
