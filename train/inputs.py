"""From a config to everything a run needs: tokenizer, model shape, ids in memory or in shards. Nothing is written."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.data import mixture, read_source, split_ids
from jaxllm.data.batches import check_splits
from jaxllm.data.id_sequences import IdSequence, JoinedIds
from jaxllm.data.mixture import Mixture
from jaxllm.data.shards import TOKENIZER, TRAIN, VALIDATION, Index, is_prepared, open_split, read_index, verify
from jaxllm.data.windows import Ids
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer, WordTokenizer, load_tokenizer
from jaxllm.utils.errors import InputError, shown

from .config import RunConfig, TokenizerConfig, row_length
from .progress import counted
from .runs.load import load_run
from .tune.base import Base, model_on, open_base
from .tune.beginning import begun, lora_of
from .tune.data import TuneData, asks_for_the_day, n_labels, tune_data
from .tune.partition import n_changing, partition_of
from .tune.rendered import ending_answers
from .tune.sample import answering, question

STAND_IN = 256  # vocabulary size where the tokenizer's depends on a text that is not read


@dataclass(frozen=True)
class Prepared:
    """A checked config, with what its data determine."""

    config: RunConfig  # resolved
    tokenizer: Tokenizer
    model: GPTConfig
    train_ids: IdSequence | Mixture
    validation_ids: IdSequence
    chat: ChatFormat | None = None  # of the model that the run begins from
    base: Base | None = None  # None where nothing of it is needed any more
    examples: TuneData | None = None  # of every kind of tuning but "pretrain"
    draw: Callable[..., tuple[Ids, Any]] | None = None  # in the place of `jaxllm.data.batch`
    write: Callable[..., str] | None = None  # in the place of `train.evaluate.sample_text`

    def computing_with(self, products: Any) -> "Prepared":
        """The same run with `train.products` resolved."""
        return replace(self, config=replace(self.config, train=replace(self.config.train, products=products)))

    def with_config(self, config: RunConfig) -> "Prepared":
        """As `prepare(config)`, for a config with the same data and tokenizer: nothing is read or encoded again."""
        data = self.config.data
        if self.base:
            model = model_on(self.base, config.model, self.model.n_classes)
            read = self.config.tune  # from the data
            config = replace(config, init=self.config.init, tune=replace(config.tune, labels=read.labels, day=read.day))
            if config.init.adapter:
                config = replace(config, lora=lora_of(config, self.base))
        else:
            model = config.model.with_vocabulary(self.tokenizer.vocab_size)
        if self.examples:
            config = replace(config, train=replace(config.train, window=self.config.train.window))
        if not data.attend_across:
            model = replace(model, separator=self.model.separator)
        sources = self.train_ids.sources if isinstance(self.train_ids, Mixture) else [self.train_ids]
        for ids in [] if self.examples else sources:
            check_splits(ids, self.validation_ids, row_length(model, config.train))
        _check_shapes(config, model)
        _check_prompt(config.eval.prompt, self.tokenizer)
        resolved = config.resolved(model, self.config.tokenizer, str(data.sha256), data.characters or 0)
        return replace(self, config=resolved, model=model)

    @property
    def first_id(self) -> int:
        """The first id of the training data."""
        row = self.train_ids.sources[0] if isinstance(self.train_ids, Mixture) else self.train_ids
        return int(row[:1][0])


def prepare(
    config: RunConfig, tokenizer: Tokenizer | None = None, chat: ChatFormat | None = None, nothing_saved: bool = False
) -> Prepared:  # fmt: skip
    """Open the sources, train the tokenizer unless one is given, encode texts, and split.

    A run that is continued gives its tokenizer and chat format. It needs its base for frozen parameters, and for all of
    them where `nothing_saved` yet. Raises InputError for everything in config and data that would stop the run later.
    """
    base = _base(config, tokenizer is None, nothing_saved)
    if base and tokenizer is None:
        config, base = begun(config, base)
        tokenizer, chat = base.tokenizer, base.chat
        if config.tune.kind in ("instruct", "prefer"):
            chat = ending_answers(chat, tokenizer)
    if config.tune.kind != "pretrain":
        return _of_examples(config, _given(tokenizer), chat, base)
    sources = {name: _open(name, config.data.field) for name in config.data.sources}
    digest, length = _identity(list(sources.values()))
    _check_text(config, digest, length)
    chosen, tokenizer = _tokenizer(config.tokenizer, sources, tokenizer)
    model = model_on(base, config.model) if base else config.model.with_vocabulary(tokenizer.vocab_size)
    _check_shapes(config, model)
    if not config.data.attend_across:
        model = replace(model, separator=_separator(sources))
    row = row_length(model, config.train)
    splits = [_splits(name, source, tokenizer, row) for name, source in sources.items()]
    trains, validations = zip(*splits, strict=True)
    alone = len(sources) == 1
    _check_prompt(config.eval.prompt, tokenizer)
    return Prepared(
        config.resolved(model, config.tokenizer if base else chosen, digest, length),
        tokenizer,
        model,
        trains[0] if alone else mixture(trains, list(config.data.sources.values())),
        validations[0] if alone else JoinedIds(validations),
        chat=chat,
        base=base,
    )


def _base(config: RunConfig, begins: bool, nothing_saved: bool = False) -> Base | None:
    """The base of a run that begins, or whose parameters are not all in its checkpoints. Raises InputError."""
    if config.init.from_ is None:
        if config.lora.rank or config.tune.train is not None:
            field = "lora.rank" if config.lora.rank else "tune.train"
            raise InputError(f"{field} is given, but no weights that stay as they are; name a model in init.from.")
        return None
    if begins and config.tokenizer != TokenizerConfig():
        raise InputError("[tokenizer] is given beside init.from, but the base has a tokenizer; leave [tokenizer] out.")
    return open_base(config.init, load_run) if begins or nothing_saved or partition_of(config) else None


def _given(tokenizer: Tokenizer | None) -> Tokenizer:
    if tokenizer is None:
        raise InputError("tune.kind is for weights that exist; name a run or what `jaxllm import` takes in init.from.")
    return tokenizer


def _of_examples(config: RunConfig, tokenizer: Tokenizer, chat: ChatFormat | None, base: Base | None) -> Prepared:
    """What a run on examples needs: rows in the place of ids that are cut into windows. Raises InputError."""
    if base and base.labels and config.tune.kind == "classify":  # the numbers of its head mean these
        if config.tune.labels not in (None, base.labels):
            raise InputError(
                f"tune.labels is {shown([*config.tune.labels])}, but the head of {base.name} has "
                f"{shown([*base.labels])}; leave it out, or begin from a model with a head over tokens."
            )
        config = replace(config, tune=replace(config.tune, labels=base.labels))
    if base and asks_for_the_day(config, chat):
        config = replace(config, tune=replace(config.tune, day=date.today().isoformat()))
    data = tune_data(config, tokenizer, chat, (base.config if base else config.model).context_length)
    config = replace(config, train=replace(config.train, window=data.train.width))
    _check_text(config, data.sha256, data.characters)
    labels = data.labels
    model = model_on(base, config.model, len(labels)) if base else config.model.with_vocabulary(tokenizer.vocab_size)
    _check_shapes(config, model)
    config = replace(config, tune=replace(config.tune, labels=tuple(labels) or None))
    resolved = config.resolved(model, config.tokenizer, data.sha256, data.characters)
    ids = data.ids("train"), data.ids("validation")
    if not labels:
        _check_question(data, tokenizer, chat, config.eval.prompt)
    return Prepared(resolved, tokenizer, model, *ids, chat, base, data, data.drawing(), answering(data, chat))


def _check_question(data: TuneData, tokenizer: Tokenizer, chat: ChatFormat | None, prompt: str) -> None:
    try:
        question(data, tokenizer, chat, prompt)
    except InputError as error:
        raise InputError(f"eval.prompt: {error}") from None


def _check_shapes(config: RunConfig, model: GPTConfig) -> None:
    """Raises InputError for rows longer than the context, and for parameters or maps that the model has not."""
    if (window := config.train.window or 0) > model.context_length:
        raise InputError(
            f"train.window is {window:,}, more than model.context_length = {model.context_length:,}; make it smaller."
        )
    if parts := partition_of(config):
        n_changing(model, parts)  # where a pattern fits nothing or a rank is too large, it says so


Source = str | Index  # a text, or the index of prepared data


def _open(name: str, field: str) -> Source:
    return read_index(name) if is_prepared(name) else read_source(name, field)


def _identity(sources: list[Source]) -> tuple[str, int]:
    """sha256 and length in characters of all sources together."""
    digests = [s.sha256 if isinstance(s, Index) else hashlib.sha256(s.encode()).hexdigest() for s in sources]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    return digest, sum(s.characters if isinstance(s, Index) else len(s) for s in sources)


def _tokenizer(
    config: TokenizerConfig, sources: dict[str, Source], given: Tokenizer | None
) -> tuple[TokenizerConfig, Tokenizer]:
    """The tokenizer and its resolved config. Raises InputError if data were prepared with another tokenizer."""
    prepared = {name: source for name, source in sources.items() if isinstance(source, Index)}
    if prepared and config.kind in ("char", "word", "bpe"):
        raise InputError(
            f"tokenizer.kind is {config.kind!r}, which would be trained, but {next(iter(prepared))} was prepared "
            "with a tokenizer of its own; leave [tokenizer] out."
        )
    if config.kind is None:
        path = next((str(Path(name) / TOKENIZER) for name in prepared), None)
        config = TokenizerConfig("file", path=path) if path else TokenizerConfig("char")
    tokenizer = given or train_tokenizer(config, [text for text in sources.values() if isinstance(text, str)])
    fingerprint = tokenizer.fingerprint()
    for name, index in prepared.items():
        if index.tokenizer != fingerprint:
            raise InputError(
                f"{name} was prepared with another tokenizer, of {index.vocab_size:,} ids and fingerprint "
                f"{index.tokenizer[:12]}, than this one of {tokenizer.vocab_size:,} and {fingerprint[:12]}; "
                "leave [tokenizer] out, or prepare it again with --tokenizer."
            )
    return config, tokenizer


def known_vocabulary(config: RunConfig) -> int | None:
    """The number of ids if the config, a tokenizer file or prepared data state it, else None."""
    if written := config.model.vocab_size or config.tokenizer.vocab_size:
        return written
    if config.tokenizer.path:
        return load_tokenizer(config.tokenizer.path).vocab_size
    of_kind = 50257 if config.tokenizer.kind == "gpt2" else None
    return next((read_index(name).vocab_size for name in config.data.sources if is_prepared(name)), of_kind)


def model_without_text(config: RunConfig) -> GPTConfig:
    """The model of a config whose text is not read: its vocabulary and labels are the configured ones, or stand-ins."""
    if config.init.from_ and not (config.model.vocab_size and config.init.sha256):  # not as a run has written it
        return model_on(open_base(config.init, load_run), config.model, n_labels(config))
    return config.model.with_vocabulary(known_vocabulary(config) or STAND_IN)


def train_tokenizer(config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    """The configured tokenizer, loaded or trained on the texts."""
    if config.kind == "file":
        return load_tokenizer(str(config.path))
    if config.kind == "gpt2":
        return BPETokenizer.gpt2()
    if config.kind == "bpe":
        assert config.vocab_size is not None  # TokenizerConfig has checked it
        with counted("learning byte pairs", config.vocab_size) as report:
            return BPETokenizer.train(texts, config.vocab_size, progress=report)
    if config.kind == "word":
        return WordTokenizer.train(texts, config.vocab_size)
    return CharTokenizer.train(texts)


def _splits(name: str, source: Source, tokenizer: Tokenizer, context_length: int) -> tuple[IdSequence, IdSequence]:
    """Training and validation ids. Without validation documents, the last tenth is for validation."""
    if isinstance(source, str):
        return split_ids(np.asarray(tokenizer.encode(source), np.int32), context_length)
    with counted(f"checking {name}", sum(shard.count for split in source.splits.values() for shard in split)) as report:
        verify(name, source, report)
    train, validation = (open_split(name, source, split) for split in (TRAIN, VALIDATION))
    if not len(validation):
        return split_ids(train, context_length)
    check_splits(train, validation, context_length)
    return train, validation


def _separator(sources: dict[str, Source]) -> int:
    """The token that separates documents. Raises InputError if a source has none."""
    found = 0
    for name, source in sources.items():
        if isinstance(source, str) or source.separator is None:
            raise InputError(
                f"data.attend_across is false, but in {name} no token separates one document from the next; use "
                "`jaxllm data prepare` with a tokenizer that has an end token."
            )
        found = source.separator  # the same in all sources, because they share one tokenizer
    return found


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
