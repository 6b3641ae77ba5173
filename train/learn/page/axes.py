"""The rows and columns that the page of `jaxllm learn show` shows: all of a small model, the first of a large one."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxllm import GPTConfig


class Limits(NamedTuple):
    """The most of each that a page shows."""

    features: int
    vocabulary: int
    heads: int
    blocks: int


@dataclass(frozen=True)
class GridAxis:
    """Rows or columns: which of `size` numbers are shown, and how each is called."""

    take: list[int]
    size: int
    labels: list[str]


class Axes:
    """The axes of all grids of a model, by the letters of their shapes.

    t: positions of the text. d: features. a: features of all heads. f: features inside the MLP. v: vocabulary.
    """

    def __init__(
        self, config: GPTConfig, inputs: list[int], targets: list[int], labels: list[str], limits: Limits
    ) -> None:  # fmt: skip
        self.blocks = range(min(limits.blocks, config.n_layers))
        self.heads = range(min(limits.heads, config.n_heads))
        self._width = min(config.head_dim, max(1, limits.features // len(self.heads)))
        n = len(inputs)
        shown = _vocabulary(inputs + targets, config.vocab_size, limits.vocabulary)
        inner = [h * config.head_dim + j for h in self.heads for j in range(self._width)]
        of_heads = [f"h{i // config.head_dim}.{i % config.head_dim}" for i in inner]
        self.ids = [shown.index(i) for i in inputs]  # of the inputs, among the rows of the table that are shown
        self.targets = [shown.index(i) for i in targets]
        self.by_letter = {
            "t": GridAxis([*range(n)], n, [labels[i] for i in inputs]),
            "d": _first(limits.features, config.d_model),
            "a": GridAxis(inner, config.n_heads * config.head_dim, of_heads),
            "f": _first(limits.features, config.hidden_dim),
            "v": GridAxis(shown, config.vocab_size, [labels[i] for i in shown]),
        }

    def cut(self, letter: str) -> bool:
        """Whether only a part of an axis is shown."""
        axis = self.by_letter[letter]
        return len(axis.take) < axis.size

    def of_head(self, head: int) -> list[int]:
        """The places of a head's features among those shown of axis a."""
        return [*range(head * self._width, (head + 1) * self._width)]

    def head_of_column(self) -> list[int]:
        """The head of each feature shown of axis a."""
        return np.repeat(self.heads, self._width).tolist()


def _first(most: int, size: int) -> GridAxis:
    take = [*range(min(most, size))]
    return GridAxis(take, size, [*map(str, take)])


def _vocabulary(used: list[int], size: int, most: int) -> list[int]:
    """The ids of the text, and the first of the others until there are `most`."""
    others = [i for i in range(size) if i not in set(used)]
    return sorted({*used, *others[: max(0, most - len(set(used)))]})
