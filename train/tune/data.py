"""The data of a tuning: a file of examples as rows of ids to train and to validate on."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from jaxllm.data.batches import VALIDATION_SHARE
from jaxllm.data.windows import Ids
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError, shown

from ..config import RunConfig
from ..progress import counted
from .batches import Answers, Preferences, Rows, draw, in_order, make_rows, packed_width, rounded_up
from .config import OF_KINDS
from .examples import Kind, LabelledText, Preference, labels_in, read_examples
from .fitting import Fitted, Group, TooLong, fit, length
from .preview import print_preview
from .rendered import Renderer

FEWEST_LABELS = 2  # of a classifier, where its examples cannot be read


@dataclass(frozen=True)
class TuneData:
    """The examples of a task, ready for batches."""

    kind: Kind
    tokenizer: Tokenizer
    train: Rows
    validation: Rows
    labels: tuple[str, ...]  # of classify, by their numbers; else none
    sha256: str  # of the file's text
    characters: int
    notes: tuple[str, ...]  # lines to print: how many examples there are, and what became of those that are too long
    day: date | None = None  # that the chat template was given as today

    def draw(
        self, batch_size: int, seed: int, step: int, part: int = 0, parts: int = 1
    ) -> tuple[Ids, Answers | Preferences]:
        """The training batch of a step, see `batches.draw`."""
        return draw(self.train, batch_size, seed, step, part, parts)

    def drawing(self) -> Callable[..., tuple[Ids, Answers | Preferences]]:
        """`draw` with the arguments of `jaxllm.data.batch`, whose ids and length of a row it does not need."""
        return lambda _ids, _row, *rest: self.draw(*rest)

    def batches(self, split: str, rows: int) -> Iterator[tuple[Ids, Answers | Preferences]]:
        """All of "train" or "validation" in the order of the file, see `batches.in_order`."""
        return in_order(self.train if split == "train" else self.validation, rows)

    def ids(self, split: str) -> Ids:
        """The ids [N] int32 of all texts of "train" or "validation", one after another."""
        rows = self.train if split == "train" else self.validation
        return np.concatenate([one.ids for group in rows.examples for one in group])

    def fingerprint(self) -> str:
        """sha256 of the ids of all examples and of which are learned: equal for what a model computes alike."""
        digest = hashlib.sha256()
        for rows in (self.train, self.validation):
            digest.update(len(rows.examples).to_bytes(8, "little"))
            for one in (text for group in rows.examples for text in group):
                digest.update(len(one.ids).to_bytes(8, "little") + one.ids.tobytes() + one.learned.tobytes())
        return digest.hexdigest()

    def with_reference(self, train: NDArray[np.float32], validation: NDArray[np.float32]) -> "TuneData":
        """The same data with the base model's log-probabilities [N, 2] of the examples of both splits, in order."""
        return replace(
            self,
            train=replace(self.train, reference=train),
            validation=replace(self.validation, reference=validation),
        )

    def preview(self, n: int = 3) -> None:
        """Print the first n training examples, with what is learned of them."""
        print_preview(self.train.examples[:n], self.tokenizer, self.labels)


def tune_data(config: RunConfig, tokenizer: Tokenizer, chat: ChatFormat | None, context_length: int) -> TuneData:
    """The examples of `data.source`, as [tune] and `train.window` say. Raises InputError as `read_tune_data`."""
    if not isinstance(source := config.data.source, str):
        raise InputError("data.source is a mixture, but examples of a task come from one file; name it.")
    kind, tune, window = cast(Kind, config.tune.kind), config.tune, config.train.window
    return read_tune_data(
        source, kind, tokenizer, chat, window or context_length, too_long=tune.too_long, packing=tune.packing,
        labels=tune.labels, shrink=window is None, day=date.fromisoformat(tune.day) if tune.day else None,
    )  # fmt: skip


def asks_for_the_day(config: RunConfig, chat: ChatFormat | None) -> bool:
    """Whether a run has to record the day of its beginning: its chat template may write the day into examples."""
    by_template = chat is not None and "strftime_now" in (chat.chat_template or "")
    return by_template and config.tune.day is None and config.tune.kind in OF_KINDS["day"]


def n_labels(config: RunConfig) -> int:
    """The classes of a config: its labels, those of its examples where the file is there, or the fewest possible."""
    source, labels = config.data.source, config.tune.labels
    if config.tune.kind != "classify" or labels is not None:
        return len(labels or ())
    there = isinstance(source, str) and Path(source).is_file()
    return max(FEWEST_LABELS, len(labels_in(str(source))) if there else 0)


def read_tune_data(
    source: str, kind: Kind, tokenizer: Tokenizer, chat: ChatFormat | None, window: int, *,
    too_long: TooLong = "refuse", packing: bool = False, labels: Sequence[str] | None = None, shrink: bool = False,
    day: date | None = None,
) -> TuneData:  # fmt: skip
    """The examples of a file, rendered and cut to rows of at most `window` positions.

    The last tenth of the file's lines, and at least one, is for validation. With `shrink` rows are as wide as the
    longest example needs, and packed ones as `packed_width` says. `labels` are those of an earlier reading; if they are
    not given they are the data's, sorted. A chat template is given `day` as today. Raises InputError for everything in
    the file that would make the training wrong, as the modules say that do the parts.
    """
    if packing and kind == "prefer":
        raise InputError('tune.packing is true, but tune.kind = "prefer" has one pair in a row; leave it out.')
    file = read_examples(source, kind)
    renderer = Renderer(tokenizer, chat, day)
    names = _labels(source, file.examples, labels) if kind == "classify" else ()
    groups = _groups(source, file.examples, renderer, names)
    boundary = int(len(groups) * (1 - VALIDATION_SHARE))
    begin = 0 if kind != "classify" and chat and chat.chat_template is not None else len(renderer.begin)
    fitted = [fit(part, window, too_long, begin) for part in (groups[:boundary], groups[boundary:])]
    train, validation = (one.groups for one in fitted)
    if not train or not validation:
        raise InputError(
            f"{source} has {len(groups):,} examples, of which {len(train):,} are left to train on and "
            f"{len(validation):,} to validate on, but each needs one at least; give more, or a larger train.window."
        )
    if kind == "classify":
        _check_labels(source, train, names)
    longest = min(window, rounded_up(max(map(length, [*train, *validation]))))
    widest = packed_width([*map(length, train)], longest, window) if packing else longest
    room = widest if shrink else window
    first, last = rows = make_rows([train, validation], room, packing)
    notes = (*_counts(source, rows, names), *_lengths(fitted, window))
    return TuneData(kind, tokenizer, first, last, names, file.sha256, file.characters, notes, day)


def _groups(source: str, examples: Sequence[Any], renderer: Renderer, labels: Sequence[str]) -> list[Group]:
    """The ids of each example."""
    groups: list[Group] = []
    with counted(f"encoding {source}", len(examples)) as report:
        for one in examples:
            if isinstance(one, LabelledText):
                groups.append((renderer.text(one, labels.index(one.label)),))
            else:
                is_pair = isinstance(one, Preference)
                groups.append(renderer.preference(one) if is_pair else (renderer.conversation(one),))
            report(len(groups))
    return groups


def _labels(source: str, examples: Sequence[Any], known: Sequence[str] | None) -> tuple[str, ...]:
    """The labels of the data, or those that are known already. Raises InputError for less than two, or another one."""
    found = sorted({one.label for one in examples})
    if known is not None and (other := [name for name in found if name not in known]):
        raise InputError(
            f"{source} has the label {shown(other[0])}, but this run's are {shown([*known])}; use its data."
        )
    names = tuple(known if known is not None else found)
    if len(names) < 2:
        raise InputError(
            f"{source} has the one label {shown(names[0])}, so there is nothing to tell apart; add others."
        )
    return names


def _check_labels(source: str, train: list[Group], labels: tuple[str, ...]) -> None:
    """Raises InputError if the examples to train on have one label only."""
    if len(seen := {labels[group[0].label or 0] for group in train}) == 1:
        raise InputError(
            f"all {len(train):,} examples of {source} to train on have the label {shown(seen.pop())}: the last "
            "tenth of the lines is for validation; shuffle them."
        )


def _counts(source: str, splits: list[Rows], labels: tuple[str, ...]) -> Iterator[str]:
    """How many examples, rows and learned positions there are, and of each label."""
    for name, one in zip(("train", "validate"), splits, strict=True):
        learned = sum(int((text.targets >= 0).sum()) for group in one.examples for text in group)
        n_rows = len(one.rows) * len(one.examples[0])
        yield (
            f"{source}: {len(one.examples):,} examples to {name} on, in {n_rows:,} rows of {one.width:,} tokens; "
            f"{learned:,} of {n_rows * one.width:,} positions are learned"
        )
        if labels:
            counted = Counter(labels[group[0].label or 0] for group in one.examples)
            yield "labels: " + ", ".join(f"{shown(label)} {counted[label]:,}" for label in labels)


def _lengths(splits: list[Fitted], window: int) -> Iterator[str]:
    """What became of examples that are too long."""
    for name, one in zip(("train", "validate"), splits, strict=True):
        if one.cut or one.dropped:
            yield (
                f"of the examples to {name} on, {one.cut:,} were cut and {one.dropped:,} dropped: they are longer than "
                f"train.window = {window:,} tokens"
            )
