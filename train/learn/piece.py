"""What the course knows of a piece: the functions that a learner writes, what is right, and the usual slips.

LLMs-from-scratch and ARENA let a learner compare with printed outputs; here the twin in float64 decides, on inputs that
are made at the check, and a catalogue of wrong twins says which mistake it is.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

Arguments = dict[str, Any]  # of one call, by name, in the order of the signature


@dataclass(frozen=True)
class Slip:
    """A usual mistake: a wrong variation of the right function.

    `wrong` takes the arguments of the right function and returns what a learner with this mistake would get.

    Two mistakes in one body are recognised where they compose. If `wrong` is `functools.partial(varied, scale=False)`,
    it composes with every `partial` of the same function that sets other keywords. If the mistake lies before or after
    the whole computation, `before` changes the arguments and `after` the result, and it composes with every other
    slip; `wrong` is then `after(right(*before(arguments).values()), arguments)`.
    """

    name: str  # "no-scale": words of the field, with hyphens; unique in its function
    says: str  # "equals attention without the division by sqrt(K)": what follows "the result"
    explanation: str  # two sentences: what happens, and why it matters
    hint: str  # where to look; never the answer
    wrong: Callable[..., Any]
    before: Callable[[Arguments], Arguments] | None = None
    after: Callable[[Any, Arguments], Any] | None = None  # (result, arguments as the learner got them)


@dataclass(frozen=True)
class Function:
    """One function that the learner writes.

    `cases` yields the arguments of calls, the smallest first: a few chosen by hand, small enough for paper, then random
    ones from the generator. Arrays are float64 or int64. All functions are called with the arguments by position.
    Results are compared with those of `right`: exactly if they are strings, bytes or integers, else to rounding.
    """

    name: str
    right: Callable[..., Any]
    cases: Callable[[np.random.Generator], Iterator[Arguments]]
    slips: tuple[Slip, ...] = ()
    vjp: Callable[..., Any] | None = (
        None  # of `right`: (*arguments) -> (result, pullback); None: no gradient is compared
    )
    axes: str = ""  # letters of the result's axes, as in "T S"; for diagnoses that name an axis

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the arguments, which are those of every case."""
        return tuple(next(self.cases(np.random.default_rng(0))))

    def slip(self, name: str) -> Slip:
        """The slip of that name."""
        return next(slip for slip in self.slips if slip.name == name)


@dataclass(frozen=True)
class Piece:
    """One file of the course."""

    name: str  # "scaled_dot_product": the file is p10_scaled_dot_product.py
    title: str  # "Scaled dot-product attention"
    teaches: str  # one sentence, for the map and the README
    functions: tuple[Function, ...]
