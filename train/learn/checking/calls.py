"""The calls of a check: arguments, what is right for them, and what the learner's function made of them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..piece import Arguments, Function
from .trees import leaves_of

MOST_GRADIENTS = 5  # cases of a function in which gradients are taken: JAX compiles the backward of each


@dataclass(frozen=True)
class Failure:
    """Why a call has no result."""

    kind: str  # "raised", "syntax", "exit", "not written", "refused", "ended"
    says: str  # what the function does: "raises ValueError: ..."
    lines: tuple[tuple[str, int, str, str], ...] = ()  # of the learner's files: file, number, function, text
    type: str = ""  # of the exception

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Failure":
        """What `runner` tells of a failure."""
        message = f": {told['message']}" if told.get("message") else ""
        says = {
            "raised": f"raises {told.get('type')}{message}",
            "syntax": f"is not Python{message}",
            "exit": "ends the program (sys.exit)",
            "not written": "is not written yet",
        }.get(told["kind"], told.get("says", ""))
        lines = tuple(tuple(line) for line in told.get("lines", ()))
        return cls(told["kind"], says, lines, told.get("type", ""))


@dataclass(frozen=True)
class Case:
    """A call, its right result and, where the language has gradients, those of the sum of result times cotangent."""

    arguments: Arguments
    right: Any
    cotangent: Any = None
    gradients: Any = None

    @property
    def size(self) -> int:
        """How many numbers and characters the arguments have."""
        leaves = leaves_of(list(self.arguments.values()))
        return sum(x.size if isinstance(x, np.ndarray) else len(x) if isinstance(x, str | bytes) else 1 for x in leaves)


@dataclass(frozen=True)
class Attempt:
    """What a learner's function made of a case."""

    value: Any = None
    failure: Failure | None = None
    gradients: Any = None
    gradient_failure: Failure | None = None
    printed: str = ""
    changed: tuple[str, ...] = ()  # arguments that it changed in place


def make_cases(function: Function, rng: np.random.Generator, with_gradients: bool = False) -> list[Case]:
    """The cases of a function, the smallest first; some of all sizes with gradients, where the function has them."""
    cases = [Case(arguments, function.right(*_copied(arguments))) for arguments in function.cases(rng)]
    cases.sort(key=lambda case: case.size)
    if function.vjp is None or not with_gradients:
        return cases
    chosen = {*np.linspace(0, len(cases) - 1, MOST_GRADIENTS).round()}
    return [_with_gradients(function, case.arguments, rng) if i in chosen else case for i, case in enumerate(cases)]


def _copied(arguments: Arguments) -> list[Any]:
    return list(deepcopy(arguments).values())


def _with_gradients(function: Function, arguments: Arguments, rng: np.random.Generator) -> Case:
    assert function.vjp
    right, pullback = function.vjp(*_copied(arguments))
    cotangent = rng.normal(size=np.shape(right))
    return Case(arguments, right, cotangent, list(pullback(cotangent))[: len(arguments)])


def attempted(function: Callable[..., Any], case: Case) -> Attempt:
    """What a function of ours, right or wrong, makes of a case. The arguments are copied."""
    with np.errstate(all="ignore"):
        try:
            return Attempt(function(*_copied(case.arguments)))
        except Exception as error:
            return Attempt(
                failure=Failure("raised", f"raises {type(error).__name__}: {error}", type=type(error).__name__)
            )
