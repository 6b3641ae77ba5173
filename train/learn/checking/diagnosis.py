"""What a diagnosis is, and the pairs of numbers that the diagnosers of single arrays look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .calls import Case
from .compare import close
from .trees import Place
from .wire import Typed


@dataclass(frozen=True)
class Diagnosis:
    """What the results of a wrong function are equal to."""

    names: tuple[str, ...]  # of slips, or the kind: "axes", "scale", "dtype"
    says: str  # what follows "your NAME": "equals attention without the division by sqrt(K)"
    explanation: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Pair:
    """The right array and the learner's in one place of the results of a case."""

    case: Case
    right: Any
    mine: Any
    dtype: str

    @classmethod
    def of(cls, case: Case, right: Any, mine: Any) -> "Pair":
        """From leaves, or lists of integers."""
        array = np.asarray(mine.array if isinstance(mine, Typed) else mine)
        return cls(case, np.asarray(right), array, mine.dtype if isinstance(mine, Typed) else array.dtype.name)

    def equal(self, expected: Any) -> bool:
        """Whether the learner's array is the expected one."""
        if np.shape(expected) != self.mine.shape:
            return False
        return bool(close(np.asarray(expected), self.mine, self.dtype).all())

    @property
    def is_right(self) -> bool:
        return self.equal(self.right)


def arrays_in(tree: Any, place: Place = ()) -> Iterator[tuple[Place, Any]]:
    """The arrays and numbers of a result with their places; a list of integers counts as an array."""
    if isinstance(tree, dict):
        for name, item in tree.items():
            yield from arrays_in(item, (*place, name))
    elif isinstance(tree, list | tuple) and not (tree and all(type(item) is int for item in tree)):
        for i, item in enumerate(tree):
            yield from arrays_in(item, (*place, i))
    elif isinstance(tree, Typed | np.ndarray | np.generic | int | float | list | tuple):
        yield place, tree
