"""[init], [tune] and [lora]: the weights that training begins from, what is learned, and which parameters change."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.validate import Fraction, NonNegative, PositiveFloat, check_fields

Texts = tuple[str, ...]
OF_KINDS = {  # fields of [tune] that not every kind reads
    "beta": ("prefer",), "labels": ("classify",), "too_long": ("instruct", "classify", "prefer"),
    "packing": ("instruct", "classify", "prefer"), "day": ("instruct", "prefer"),
}  # fmt: skip


@dataclass(frozen=True)
class InitConfig:
    """[init]: the weights to begin from; without `from` they are random."""

    from_: str | None = None  # a run, or what `jaxllm import` takes; its tokenizer and chat template come along
    adapter: str | None = None  # a folder of PEFT with an adapter to go on from
    add_tokens: Texts = ()  # tokens to add, found where a text has their names; their rows begin as the mean of all
    sha256: str | None = None  # of the base's weights; written by a run, checked where it is given

    def __post_init__(self) -> None:
        check_fields(self, "init.")
        if self.from_ is None and (self.adapter or self.add_tokens):
            given = "adapter" if self.adapter else "add_tokens"
            raise InputError(f"init.{given} is given without a base; name its run or folder in init.from.")
        for i, name in enumerate(self.add_tokens):
            if not name.strip() or name in self.add_tokens[:i]:
                raise InputError(f"init.add_tokens names {shown(name)} twice or not at all; give each token once.")


@dataclass(frozen=True)
class TuneConfig:
    """[tune]: what is learned from `data.source`, which for every kind but "pretrain" is a file of examples."""

    kind: Literal["pretrain", "instruct", "classify", "prefer"] = "pretrain"  # what an example is
    too_long: Literal["refuse", "cut", "drop"] = "refuse"  # what happens to examples longer than train.window
    packing: bool = False  # whether a row holds several examples, which do not attend to each other
    beta: PositiveFloat = 0.1  # of "prefer": how far the model may move from its base, large for less
    train: str | None = None  # pattern of the parameters that change in full; none: all, or with [lora] no others
    labels: Texts | None = None  # of "classify", in the order of their numbers; written by a run
    day: str | None = None  # as 2026-11-28, that a chat template is given as today; a run writes that of its beginning

    def __post_init__(self) -> None:
        check_fields(self, "tune.")
        check_pattern("tune.train", self.train)
        check_day(self.day)
        for i, label in enumerate(self.labels or ()):
            if not label.strip() or label in self.labels[:i]:  # type: ignore[index]
                raise InputError(f"tune.labels has {shown(label)} twice, or an empty label; give each label once.")
        for name, kinds in OF_KINDS.items():
            if self.kind not in kinds and (value := getattr(self, name)) != getattr(TuneConfig, name):
                raise InputError(
                    f"tune.{name} is {shown(value)}, but tune.kind is {self.kind!r}; leave it out: it is for "
                    f"{' and '.join(kinds)}."
                )


@dataclass(frozen=True)
class LoraConfig:
    """[lora]: with a rank, linear maps W of the blocks become W + alpha / rank A B, and only A and B change."""

    rank: NonNegative = 0  # columns of A and rows of B; 0: no adapter
    alpha: PositiveFloat = 16.0  # alpha / rank is the factor of A B
    dropout: Fraction = 0.0  # of the adapter's input
    targets: str | None = None  # pattern of the paths of maps with an adapter; none: all maps of the blocks
    base: Literal["float32", "int8"] = "float32"  # how the W of these maps are kept; int8 with a scale for each column

    def __post_init__(self) -> None:
        check_fields(self, "lora.")
        check_pattern("lora.targets", self.targets)

    @property
    def scale(self) -> float:
        """The factor of A B."""
        return self.alpha / self.rank


def check_tuning(config: Any) -> None:
    """Raises InputError for fields of the other sections of a RunConfig that do not fit [init] and [tune]."""
    if config.parallel.context > 1 and config.tune.kind != "pretrain":
        raise InputError(
            f'parallel.context is {config.parallel.context}, but the rows of tune.kind = "{config.tune.kind}" are not '
            "cut; use parallel.data, fsdp or tensor."
        )
    if config.model.n_classes and config.tune.kind != "classify":
        raise InputError(
            f"model.n_classes is {config.model.n_classes}, but tune.kind is {config.tune.kind!r}; leave it out: "
            'tune.kind = "classify" counts the labels of the data.'
        )
    if config.init.adapter and config.tune.kind == "prefer":
        raise InputError(
            f"init.adapter is {config.init.adapter}, but the answers would be compared with the base without it; "
            "merge it into its base (`jaxllm merge`, or PEFT), and name that in init.from."
        )
    if not config.data.attend_across and config.tune.kind != "pretrain":
        raise InputError(
            f"data.attend_across is false, but the rows of tune.kind = {config.tune.kind!r} hold examples, which "
            "never attend to each other; leave it out."
        )
    if config.train.loss is not None and config.tune.kind != "pretrain":
        raise InputError(
            f"train.loss is {config.train.loss!s}, but tune.kind = {config.tune.kind!r} has a loss of its own; leave "
            "train.loss out."
        )
    which, table = config.tune.train, "token_embedding/table"
    stays = config.lora.rank > 0 if which is None else re.search(which, table) is None
    if config.init.add_tokens and stays:
        raise InputError(
            f"init.add_tokens is {shown([*config.init.add_tokens])}, but their rows would stay all alike, "
            "because the token table does not change in this run; name token_embedding in tune.train."
        )


def check_pattern(name: str, pattern: str | None) -> None:
    """Raises InputError unless the pattern is a regular expression."""
    try:
        re.compile(pattern or "")
    except (re.error, RecursionError) as error:
        raise InputError(f"{name} is {shown(pattern)}, which is no regular expression: {error}.") from None


def check_day(day: str | None) -> None:
    """Raises InputError unless the day is a date, or None."""
    try:
        if day is not None:
            date.fromisoformat(day)
    except ValueError:
        raise InputError(
            f"tune.day is {shown(day)}, which is no day; write it as 2026-11-28, or leave it out."
        ) from None
