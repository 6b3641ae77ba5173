"""A run's configuration: TOML sections as frozen dataclasses, each field checked against its annotation.

Levanter maps YAML to nested dataclasses, nanoGPT executes files; this is the first without a framework: a
section is a dataclass, an unknown key is an error that names the nearest valid one, and what was resolved
is written back as TOML.
"""

import dataclasses
import os
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tomli_w
from msgspec import Meta

from jaxllm.config import GPTConfig
from jaxllm.data.sources import NAMED, PYTHON_DOCS, PYTHON_STDLIB
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, without_mark
from jaxllm.utils.validate import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    check_fields,
    nearest,
    printable,
    shown,
)

MOST_NEW_TOKENS = 100_000  # to be generated at a time


@dataclass(frozen=True)
class DataConfig:
    """[data]: the text. A run writes down its sha256 and length; where they are given they must fit.

    `source` is a name, a path, or a mixture: {source: weight}.
    """

    source: str | dict[str, PositiveFloat] = "python-docs"  # a named corpus, a path, or a mixture {source = weight}
    field: str = "text"  # key of the text in JSON lines
    attend_across: bool = True  # whether tokens attend to earlier documents in their window
    sha256: str | None = None  # of the text; written by a run, checked where it is given
    characters: Positive | None = None  # length of the text, likewise

    def __post_init__(self) -> None:
        check_fields(self, "data.")
        if not self.sources:
            raise InputError("data.source names no source; give a weight to at least one, {source = weight}.")

    @property
    def sources(self) -> dict[str, float]:
        """Each source with its weight."""
        return {self.source: 1.0} if isinstance(self.source, str) else self.source


@dataclass(frozen=True)
class TokenizerConfig:
    """[tokenizer]: vocab_size is for bpe (needed) and word (optional: the most frequent words), path for file.

    Without a kind it is that of the data where they are prepared, and char for a text.
    """

    kind: Literal["char", "word", "bpe", "gpt2", "file"] | None = None  # none: prepared data's own, char for a text
    vocab_size: Positive | None = None  # required for bpe; for word the most frequent words are kept
    path: str | None = None  # of a tokenizer.json, for kind = "file"

    def __post_init__(self) -> None:
        check_fields(self, "tokenizer.")
        if (self.kind == "file") != (self.path is not None):
            raise InputError('tokenizer.path and tokenizer.kind = "file" go together; give both or neither.')
        if self.kind == "bpe" and self.vocab_size is None:
            raise InputError("tokenizer.vocab_size is missing; byte-pair encoding needs it, for example 1024.")
        if self.kind not in ("bpe", "word") and self.vocab_size is not None:
            raise InputError(
                f"tokenizer.vocab_size is {self.vocab_size}, but kind = {self.kind or 'char'!r} has a size of its own; "
                "leave it out."
            )


@dataclass(frozen=True)
class ModelConfig(GPTConfig):
    """[model]: the fields of GPTConfig; vocab_size left out (0) is the tokenizer's."""

    vocab_size: Annotated[int, Meta(ge=0, le=2**24)] = 0  # V; 0: the tokenizer's

    def with_vocabulary(self, size: int) -> GPTConfig:
        """The GPTConfig for a tokenizer of `size` ids. Raises InputError where the model's vocabulary is smaller."""
        if 0 < self.vocab_size < size:
            raise InputError(
                f"model.vocab_size is {self.vocab_size}, smaller than the tokenizer's {size}; leave it out or "
                f"make it at least {size}."
            )
        return GPTConfig(**asdict(self) | {"vocab_size": self.vocab_size or size})


@dataclass(frozen=True)
class TrainConfig:
    """[train]: batch_size counts the windows of one optimizer step, whatever grad_accumulation cuts it into."""

    steps: Positive = 1000  # optimizer steps
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 12  # windows of one optimizer step
    seed: NonNegative = 0  # of initialisation, data order, dropout and samples
    grad_accumulation: Positive = 1  # microbatches that a batch is split into: less memory, the same result
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32
    remat: bool = False  # recompute each block in the backward pass: less memory, the time of one more forward pass
    max_skipped: NonNegative = 0  # how many steps with a non-finite loss or gradient may be skipped
    deterministic: bool = False  # on a GPU use only operations that give the same bits each time; CPUs always do

    def __post_init__(self) -> None:
        check_fields(self, "train.")
        if self.batch_size % self.grad_accumulation:
            raise InputError(
                f"train.batch_size is {self.batch_size}, which is not divisible by train.grad_accumulation = "
                f"{self.grad_accumulation}; make it a multiple."
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """[optimizer]: AdamW; warm-up to learning_rate, then a cosine down to min_learning_rate after the last step."""

    name: Literal["adamw"] = "adamw"  # update rule
    learning_rate: PositiveFloat = 1e-3  # the largest, after the warm-up
    min_learning_rate: NonNegativeFloat = 1e-4  # where the cosine ends, after the last step
    warmup_steps: NonNegative = 100  # steps in which the learning rate rises linearly
    beta1: Fraction = 0.9  # decay of the first moment
    beta2: Fraction = 0.99  # decay of the second moment
    weight_decay: NonNegativeFloat = 0.1  # of matrices; vectors (biases, norms) are not decayed
    clip_norm: PositiveFloat = 1.0  # the largest norm of the gradient of all parameters; a larger one is scaled down

    def __post_init__(self) -> None:
        check_fields(self, "optimizer.")
        if self.min_learning_rate > self.learning_rate:
            raise InputError(
                f"optimizer.min_learning_rate is {self.min_learning_rate}, above optimizer.learning_rate = "
                f"{self.learning_rate}; make it smaller."
            )


@dataclass(frozen=True)
class EvalConfig:
    """[eval]: every so many steps, and at the end, the validation loss and a sample of text."""

    every: Positive = 250  # steps between evaluations; the last step is evaluated too
    prompt: str = ""  # beginning of the sample; empty: the first token of the training text
    sample_tokens: Annotated[int, Meta(ge=1, le=MOST_NEW_TOKENS)] = 200  # length of the sample
    temperature: NonNegativeFloat = 0.8  # of sampling; 0: the most likely token

    def __post_init__(self) -> None:
        check_fields(self, "eval.")


@dataclass(frozen=True)
class CheckpointConfig:
    """[checkpoint]: every so many steps, and at the end; the newest `keep` stay, and the best `keep_best`."""

    every: Positive = 500  # steps between checkpoints; the last step is saved too
    keep: Positive = 2  # how many of the newest stay
    keep_best: NonNegative = 0  # how many of those with the lowest validation loss stay

    def __post_init__(self) -> None:
        check_fields(self, "checkpoint.")


@dataclass(frozen=True)
class RunConfig:
    """All sections of a config file; every section and field may be left out."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)

    def __post_init__(self) -> None:
        if self.optimizer.warmup_steps >= self.train.steps:
            raise InputError(
                f"optimizer.warmup_steps is {self.optimizer.warmup_steps}, but there are only train.steps = "
                f"{self.train.steps}; warm up for fewer steps."
            )
        if self.checkpoint.keep_best and self.checkpoint.every % self.eval.every:
            raise InputError(
                f"checkpoint.keep_best is {self.checkpoint.keep_best}, but most checkpoints would have no validation "
                f"loss: make checkpoint.every = {self.checkpoint.every} a multiple of eval.every = {self.eval.every}."
            )

    def resolved(self, model: GPTConfig, tokenizer: TokenizerConfig, sha256: str, characters: int) -> "RunConfig":
        """The config with what only the data could tell written down."""
        data = replace(self.data, sha256=sha256, characters=characters)
        model = ModelConfig(**asdict(model))
        return with_absolute_paths(replace(self, model=model, tokenizer=tokenizer, data=data))


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The config with paths made absolute, to hold from every folder; corpora keep their names."""
    source, path = config.data.source, config.tokenizer.path
    absolute = (
        _absolute(source) if isinstance(source, str) else {_absolute(name): weight for name, weight in source.items()}
    )
    tokenizer = replace(config.tokenizer, path=path and os.path.abspath(path))
    return replace(config, data=replace(config.data, source=absolute), tokenizer=tokenizer)


def _absolute(source: str) -> str:
    return source if source in ("", PYTHON_DOCS, PYTHON_STDLIB, *NAMED) else os.path.abspath(source)


SECTIONS: dict[str, Any] = {section.name: section.default_factory for section in fields(RunConfig)}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The config of a TOML file, with `section.key=value` overrides. Raises InputError for anything wrong."""
    try:
        sections = tomllib.loads(without_mark(read_file(path), path).decode())
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}.") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a TOML file: {printable(str(error))}.") from None
    return build_config(sections, overrides)


def build_config(sections: dict[str, Any], overrides: Iterable[str] = ()) -> RunConfig:
    """The config of nested dicts, checked. Raises InputError naming the first wrong section, key or value."""
    for override in overrides:
        section, key, value = parse_override(override)
        sections = sections | {section: _table(section, sections.get(section, {})) | {key: value}}
    built = {}
    for name, values in sections.items():
        if name not in SECTIONS:
            raise InputError(f"[{printable(name, 60)}] is no section of a config; {nearest(name, SECTIONS)}")
        valid = [f.name for f in fields(SECTIONS[name])]
        for key in _table(name, values):
            if key not in valid:
                raise InputError(f"{name}.{printable(key, 60)} is no config field; {nearest(key, valid)}")
        built[name] = SECTIONS[name](**values)
    return RunConfig(**built)


def _table(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        name = printable(name, 60)
        raise InputError(f"{name} is {shown(values)}, but it must be a section: [{name}] and a line for each field.")
    return values


def parse_override(text: str) -> tuple[str, str, Any]:
    """`"train.steps=100"` -> ("train", "steps", 100): the value as in TOML, or else a bare string.

    A field for text takes a number, a boolean or a date as the text that it is: `data.source=2024`.
    """
    place, equals, value = text.partition("=")
    section, dot, key = place.strip().partition(".")
    if not (equals and dot and section and key):
        raise InputError(f"--set {shown(text)} is not understood; write --set section.key=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return section, key, value
    kinds = _kinds(section, key)
    bare = len(parsed) > 1 or (str in kinds and type(parsed["value"]) not in kinds)
    return section, key, value if bare else parsed["value"]


def _kinds(section: str, key: str) -> list[Any]:
    """The types that a field takes, without their limits; none where there is no such field."""
    hint = get_type_hints(SECTIONS[section]).get(key) if section in SECTIONS else None
    return [get_origin(kind) or kind for kind in get_args(hint) or (hint,)]


def to_toml(config: RunConfig) -> str:
    """The config as a TOML file; fields that are None are left out."""
    tables = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in dataclasses.asdict(config).items()
    }
    return tomli_w.dumps(tables)


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """The fields that differ: ("train.steps", 100, 200)."""
    a, b = dataclasses.asdict(old), dataclasses.asdict(new)
    return [(f"{s}.{k}", a[s][k], b[s][k]) for s in a for k in a[s] if a[s][k] != b[s][k]]
