"""The weights that a run begins from: their model, tokenizer and chat template, read before anything is written.

A base is a run, or whatever `jaxllm import` takes. Its fingerprint is written into the run's config, so that a run that
keeps only adapters is never joined with other weights. (PEFT and mlx-lm store the base's name alone.)
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.layers import INIT_STD
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.fetch import fetch
from jaxllm.pretrained.gguf import read_header
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files
from jaxllm.pretrained.load import open_pretrained
from jaxllm.tokenizers import BPETokenizer, Tokenizer
from jaxllm.utils.errors import InputError, shown

from ..config import ModelConfig
from ..runs.imported_weights import checksum
from .config import InitConfig

MAY_DIFFER = ("vocab_size", "dropout", "separator", "n_classes")  # of [model] and the base


@dataclass(frozen=True)
class Base:
    """A model to begin from. `read` returns its parameters, nested dicts of NumPy arrays in float32."""

    name: str
    config: GPTConfig
    tokenizer: Tokenizer
    chat: ChatFormat | None
    read: Callable[[], dict[str, Any]]
    labels: tuple[str, ...] | None = None  # of a classifier, by their numbers

    def parameters(self, sha256: str | None = None) -> tuple[dict[str, Any], str]:
        """The parameters and their fingerprint. Raises InputError unless it is `sha256`, where that is given."""
        params = self.read()
        found = fingerprint(params)
        if sha256 is not None and found != sha256:
            raise InputError(
                f"{self.name} holds other weights (fingerprint {found[:12]}) than this run was begun from "
                f"({sha256[:12]}); bring those back, or name their folder in init.from of config.toml."
            )
        return params, found


def open_base(init: InitConfig, load_run: Callable[[str], Any]) -> Base:
    """The base that `init.from` names, with `init.add_tokens` in its tokenizer. Raises InputError.

    A run is read by `train.runs.load.load_run`, which is given because it reads runs with adapters by this function.
    """
    assert init.from_ is not None
    if init.sha256 and os.path.isabs(init.from_) and not os.path.exists(init.from_):
        raise InputError(
            f"{init.from_} is not there, but this run keeps only what it trained beside that model; bring it back, or "
            "write where it is into init.from of config.toml."
        )
    is_run = (Path(init.from_) / "config.toml").exists()
    base = _of_run(init.from_, load_run(init.from_), load_run) if is_run else _of_source(init.from_)
    if not init.add_tokens:
        return base
    return replace(base, tokenizer=with_added_tokens(base.tokenizer, init.add_tokens))


def _of_run(path: str, run: Any, load_run: Callable[[str], Any]) -> Base:
    read = once(run.params, lambda: load_run(path).params)
    config, labels = run.model.config, run.config.tune.labels
    return Base(path, config, run.tokenizer, run.chat, lambda: jax.tree.map(_in_float32, read()), labels)


def once(value: Any, again: Callable[[], Any]) -> Callable[[], Any]:
    """A function that returns the value at its first call and lets it go; later calls return `again()`.

    So no copy of a base's weights is held while a model is trained from them.
    """
    held = [value]
    return lambda: held.pop() if held else again()


def _of_source(source: str) -> Base:
    path = fetch(source)
    opened = open_pretrained(path)
    opened.check()  # before a tokenizer is made of as many ids as the file claims
    tokenizer, chat = read_tokenizer(path, opened.config.vocab_size)
    return Base(source, opened.config, tokenizer, chat, lambda: jax.tree.map(_in_float32, opened.parameters()))


def read_tokenizer(path: Path, vocab_size: int) -> tuple[Tokenizer, ChatFormat]:
    """The tokenizer and chat format of a Hugging Face folder or a GGUF file. Raises InputError."""
    if path.is_dir():
        return load_tokenizer_files(path, vocab_size)
    return read_gguf_tokenizer(read_header(path).metadata, path)


def _in_float32(x: Any) -> np.ndarray:
    return np.asarray(x).astype(np.float32, copy=False)


def fingerprint(params: Any) -> str:
    """The sha256 of the parameters' names and values in float32."""
    return checksum({"/".join(path): _in_float32(leaf) for path, leaf in flatten_dict(params).items()})


def with_added_tokens(tokenizer: Tokenizer, names: tuple[str, ...]) -> Tokenizer:
    """The tokenizer with further tokens behind its last id, each found wherever a text or a template has its name.

    Raises InputError if it cannot take them.
    """
    if not isinstance(tokenizer, BPETokenizer):
        raise InputError(
            f"init.add_tokens is {shown(list(names))}, but the base has a {tokenizer.kind} tokenizer; only byte-pair "
            "tokenizers take more tokens: leave it out."
        )
    for name in names:
        if name in tokenizer.special_tokens or name in tokenizer.added:
            raise InputError(f"init.add_tokens names {shown(name)}, which the base's tokenizer has; leave it out.")
    size = tokenizer.vocab_size
    more = {name: size + i for i, name in enumerate(names)}
    return BPETokenizer(
        tokenizer.tokens, tokenizer.special_tokens, tokenizer.pattern, tokenizer.normalization,
        tokenizer.added | more, tokenizer.normalized, tokenizer.end, tokenizer.strips,
    )  # fmt: skip


def model_on(base: Base, given: ModelConfig, n_classes: int = 0) -> GPTConfig:
    """The model of a run that begins from the base. Raises InputError where [model] says otherwise."""
    default = ModelConfig()
    for field in fields(GPTConfig):
        value, its = getattr(given, field.name), getattr(base.config, field.name)
        if field.name not in MAY_DIFFER and value not in (getattr(default, field.name), its):
            raise InputError(
                f"model.{field.name} is {shown(value)}, but in {base.name} it is {shown(its)}; leave [model] out: "
                "the base decides its fields."
            )
    for name, its in (("[model]", given.n_classes), (base.name, base.config.n_classes)):
        if its not in (0, n_classes):
            learned = f"{n_classes} labels" if n_classes else "tokens"
            raise InputError(
                f"{name} has a classifier of {its} classes, but this run learns {learned}; name a model with a head in "
                "init.from, and leave model.n_classes out."
            )
    size = max(base.config.vocab_size, base.tokenizer.vocab_size)
    if given.vocab_size not in (0, size):
        raise InputError(
            f"model.vocab_size is {given.vocab_size:,}, but with {base.name} it is {size:,}; leave it out."
        )
    return replace(base.config, vocab_size=size, dropout=given.dropout, n_classes=n_classes)


def first_parameters(params: dict[str, Any], model: GPTConfig, known: int, seed: int) -> dict[str, Any]:
    """The base's parameters in the shapes of the model.

    The rows of tokens from the id `known` on are the mean of the rows before it, in the head too: an unknown token
    begins like an average one, and lowers no other's probability much (Hewitt 2021). Where the base has no classifier,
    it is drawn with the seed, normal with standard deviation INIT_STD, and its bias is zero; the head over the
    vocabulary is left out.
    """
    flat = flatten_dict(params, sep="/")
    flat["token_embedding/table"] = _extended(flat["token_embedding/table"], known, model.vocab_size)
    if model.n_classes and "classifier/kernel" not in flat:
        flat.pop("head/kernel", None)
        kernel = INIT_STD * jax.random.normal(jax.random.key(seed), (model.d_model, model.n_classes), jnp.float32)
        flat |= {"classifier/kernel": np.asarray(kernel), "classifier/bias": np.zeros(model.n_classes, np.float32)}
    elif "head/kernel" in flat:
        flat["head/kernel"] = _extended(flat["head/kernel"].T, known, model.vocab_size).T
    return unflatten_dict(flat, sep="/")


def _extended(rows: np.ndarray, known: int, size: int) -> np.ndarray:
    """The rows [V, D] with those from `known` on, up to `size`, as the mean of the first `known`."""
    if known >= size or known == len(rows) == size:
        return rows
    mean = rows[:known].mean(0, dtype=np.float64).astype(rows.dtype)
    return np.concatenate([rows[:known], np.broadcast_to(mean, (size - known, rows.shape[1]))])
