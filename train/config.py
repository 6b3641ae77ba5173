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
from jaxllm.data.sources import NAMED_CORPORA, PYTHON_DOCS, PYTHON_STDLIB
from jaxllm.utils.errors import InputError, nearest, printable, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.utf8 import without_mark
from jaxllm.utils.validate import (
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    check_fields,
)

MOST_NEW_TOKENS = 100_000  # to be generated at a time


@dataclass(frozen=True)
class DataConfig:
    """[data]: the text. A run writes down its sha256 and length; where they are given they must fit.

    `source` is a name, a path, or a mixture: {source: weight}.
    """

    source: str | dict[str, PositiveFloat] = "python-docs"
    field: str = "text"  # of JSON lines, that holds their text
    attend_across: bool = True  # from one document to those before it in a window
    sha256: str | None = None
    characters: Positive | None = None

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

    kind: Literal["char", "word", "bpe", "gpt2", "file"] | None = None
    vocab_size: Positive | None = None
    path: str | None = None

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

    vocab_size: Annotated[int, Meta(ge=0, le=2**24)] = 0

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

    steps: Positive = 1000
    batch_size: Annotated[int, Meta(ge=1, le=2**20)] = 12
    seed: NonNegative = 0
    grad_accumulation: Positive = 1  # micro-batches a step: less memory, the same result
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; parameters stay float32
    remat: bool = False  # compute each block anew in the backward: less memory, the time of one more forward
    max_skipped: NonNegative = 0  # steps that may be left out because their loss or gradient is not finite
    deterministic: bool = False  # on a GPU only operations that give the same bits each time; a CPU does without

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

    name: Literal["adamw"] = "adamw"
    learning_rate: PositiveFloat = 1e-3
    min_learning_rate: NonNegativeFloat = 1e-4
    warmup_steps: NonNegative = 100
    beta1: Fraction = 0.9
    beta2: Fraction = 0.99
    weight_decay: NonNegativeFloat = 0.1  # of matrices; vectors (biases, norms) are not decayed
    clip_norm: PositiveFloat = 1.0  # of the gradient, over all parameters

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

    every: Positive = 250
    prompt: str = ""  # what the sample begins with; empty: the first token of the training text
    sample_tokens: Annotated[int, Meta(ge=1, le=MOST_NEW_TOKENS)] = 200
    temperature: NonNegativeFloat = 0.8

    def __post_init__(self) -> None:
        check_fields(self, "eval.")


@dataclass(frozen=True)
class CheckpointConfig:
    """[checkpoint]: every so many steps, and at the end; the newest `keep` stay, and the best `keep_best`."""

    every: Positive = 500
    keep: Positive = 2
    keep_best: NonNegative = 0  # those with the lowest validation loss

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
    return source if source in ("", PYTHON_DOCS, PYTHON_STDLIB, *NAMED_CORPORA) else os.path.abspath(source)


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
