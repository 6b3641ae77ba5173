"""[init], [tune] and [lora]: the weights that training begins from, what is learned, and which parameters change."""

import re
from dataclasses import dataclass
from typing import Literal

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.validate import Fraction, NonNegative, PositiveFloat, check_fields

Texts = tuple[str, ...]
OF_KINDS = {  # fields of [tune] that not every kind reads
    "beta": ("prefer",), "labels": ("classify",), "too_long": ("instruct", "classify", "prefer"),
    "packing": ("instruct", "classify", "prefer"),
}  # fmt: skip


@dataclass(frozen=True)
class InitConfig:
    """[init]: the weights to begin from; without `from` they are random."""

    from_: str | None = None  # a run, or what `jaxllm import` takes; its tokenizer and chat template come along
    adapter: str | None = None  # a folder of PEFT with an adapter to go on from
    add_tokens: Texts = ()  # names of special tokens to add; their rows begin as the mean of all rows
    sha256: str | None = None  # of the base's weights; written by a run, checked where it is given

    def __post_init__(self) -> None:
        check_fields(self, "init.")
        if self.from_ is None and (self.adapter or self.add_tokens):
            given = "adapter" if self.adapter else "add_tokens"
            raise InputError(f"init.{given} is given without a base; name its run or folder in init.from.")
        for i, name in enumerate(self.add_tokens):
            if not name or name in self.add_tokens[:i]:
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

    def __post_init__(self) -> None:
        check_fields(self, "tune.")
        check_pattern("tune.train", self.train)
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


def check_pattern(name: str, pattern: str | None) -> None:
    """Raises InputError unless the pattern is a regular expression."""
    try:
        re.compile(pattern or "")
    except (re.error, RecursionError) as error:
        raise InputError(f"{name} is {shown(pattern)}, which is no regular expression: {error}.") from None
