"""What a slip would have computed, and how far that is from what was recorded."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxllm.compare.foreign.piece import arrays
from jaxllm.reference.arrays import Array


@dataclass(frozen=True)
class Hypothesis:
    """A slip without a free number: its name, the sentence, and the result that it leads to.

    Hypotheses of the same `slip` are forms of one mistake, of which the best is named.
    """

    slip: str
    says: str  # what follows the name of the piece: "equals ours without the bias"
    predict: Callable[[], Any]


@dataclass(frozen=True)
class OneNumber:
    """A slip with one number that is fitted: an epsilon, a scale, a base.

    `says` takes the number and its accuracy, both as text, and `names` the meaning of numbers that have one.
    """

    slip: str
    says: str  # with {value}: "fits epsilon = {value}; ours is 1e-05"
    predict: Callable[[float], Any]
    starts: Sequence[float]  # values tried first
    lowest: float = -math.inf
    smallest: float = 1e-6  # the size below which a step of the number is of its own size
    may_vanish: bool = True  # whether a number that the record does not tell from 0 is this slip still
    names: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Target:
    """What was recorded, as one vector in which each array is divided by its largest value."""

    recorded: list[Array]
    scales: list[float]

    @classmethod
    def of(cls, got: Any, ours: Any) -> "Target":
        """The scale of an array that is 0 throughout is that of ours, and 1 where ours is 0 too."""
        recorded = arrays(got)
        scales = [
            float(np.abs(x).max(initial=0) or np.abs(y).max(initial=0) or 1.0)
            for x, y in zip(recorded, arrays(ours), strict=True)
        ]
        return cls(recorded, scales)

    @property
    def size(self) -> int:
        """How many numbers were recorded."""
        return sum(x.size for x in self.recorded)

    def residuals(self, predicted: Any) -> Array:
        """(recorded - predicted) / scale of all arrays as one vector; inf where a shape differs or NaN is predicted."""
        parts = []
        for x, y, scale in zip(self.recorded, arrays(predicted), self.scales, strict=True):
            if x.shape != y.shape:
                return np.full(self.size, np.inf)
            parts.append(((x - y) / scale).ravel())
        return np.nan_to_num(np.concatenate(parts), nan=np.inf, posinf=np.inf, neginf=-np.inf)

    def remaining(self, predicted: Any) -> float:
        """The largest residual."""
        return float(np.abs(self.residuals(predicted)).max(initial=0.0))
