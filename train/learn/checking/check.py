"""Checks the pieces of a learner's folder: runs their functions in a process, and compares what they return."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..course import ORDER, file_name, piece
from ..folder import LearnFolder
from ..piece import Function, Piece
from .calls import Attempt, Case, Failure, make_cases
from .child import Child, Ended
from .compare import Mismatch
from .diagnose import diagnose, differences
from .diagnosis import Diagnosis
from .gradients import diagnose_gradients, gradient_difference
from .wire import decode, encode

SECONDS = {"numpy": 10.0, "jax": 60.0, "torch": 30.0}  # for the calls of one function


@dataclass
class Checked:
    """A function of the learner's and what became of its calls."""

    function: Function
    cases: list[Case]
    attempts: list[Attempt] = field(default_factory=list)
    missing: bool = False  # the file has no such function
    diagnoses: list[Diagnosis] = field(default_factory=list)

    @property
    def state(self) -> str:
        """ "right", "wrong", "broken" or "not written"."""
        failures = [attempt.failure for attempt in self.attempts if attempt.failure]
        if any(failure.kind == "not written" for failure in failures):
            return "not written"
        if self.missing or (failures and not self.diagnoses):
            return "broken"
        return "right" if self.first_wrong is None and self.first_wrong_gradient is None else "wrong"

    @property
    def failure(self) -> tuple[Case, Failure] | None:
        """The smallest call without a result."""
        pairs = zip(self.cases, self.attempts, strict=False)
        return next(((case, attempt.failure) for case, attempt in pairs if attempt.failure), None)

    @property
    def first_wrong(self) -> int | None:
        """The number of the smallest case whose result is wrong, or that fails."""
        pairs = zip(self.attempts, self.differences, strict=False)
        return next((i for i, (attempt, found) in enumerate(pairs) if attempt.failure or found), None)

    @property
    def differences(self) -> list[Mismatch | None]:
        return differences(self.cases[: len(self.attempts)], self.attempts)

    @property
    def first_wrong_gradient(self) -> int | None:
        """The number of the smallest case with a wrong gradient."""
        pairs = enumerate(zip(self.cases, self.attempts, strict=False))
        return next((i for i, (case, a) in pairs if a.gradient_failure or gradient_difference(case, a)), None)

    def judge(self) -> None:
        """Find the diagnoses, once all attempts are there."""
        if len(self.attempts) < len(self.cases) or self.missing:
            return
        if self.first_wrong is not None:
            self.diagnoses = diagnose(self.function, self.cases, self.attempts)
        elif self.first_wrong_gradient is not None and not any(a.gradient_failure for a in self.attempts):
            self.diagnoses = diagnose_gradients(self.cases, self.attempts)


@dataclass
class CheckedPiece:
    """A piece of the course in a learner's folder."""

    piece: Piece
    functions: list[Checked]
    imports: list[str]  # earlier pieces
    absent: bool = False
    failure: Failure | None = None  # of importing the file
    printed: str = ""  # while it was imported

    @property
    def label(self) -> str:
        """The name of the file without its ending."""
        return file_name(self.piece.name).removesuffix(".py")

    @property
    def state(self) -> str:
        """ "right", "wrong", "broken", "not written", or "missing" where the file is."""
        if self.absent:
            return "missing"
        if self.failure:
            return "broken"
        states = [one.state for one in self.functions]
        return next((state for state in ("broken", "wrong", "not written") if state in states), "right")

    @property
    def is_faulty(self) -> bool:
        """Whether something that is written is wrong."""
        return self.state in ("wrong", "broken")


def check(folder: LearnFolder, names: Sequence[str], seed: int, seconds: float | None = None) -> list[CheckedPiece]:
    """Run and judge the pieces, in the order of the course. Raises InputError if the language cannot be used."""
    limit = SECONDS[folder.language] if seconds is None else seconds
    checked = [_prepared(folder, name, seed) for name in ORDER if name in names]
    by_file = {one.label: one for one in checked}
    todo = [one for one in checked if not one.absent]
    while todo:
        todo = _run(folder, todo, by_file, limit)
    for one in checked:
        for function in one.functions:
            function.judge()
    return checked


def _prepared(folder: LearnFolder, name: str, seed: int) -> CheckedPiece:
    """The cases of a piece; a seed gives a piece the same cases whichever others are checked."""
    one = piece(name)
    functions = []
    for number, function in enumerate(one.functions):
        rng = np.random.default_rng([seed, ORDER.index(name), number])
        functions.append(Checked(function, make_cases(function, rng, folder.language != "numpy")))
    return CheckedPiece(one, functions, folder.imported(name), absent=not folder.file(name).is_file())


def _run(
    folder: LearnFolder, todo: Sequence[CheckedPiece], by_file: dict[str, CheckedPiece], seconds: float
) -> list[CheckedPiece]:  # fmt: skip
    """Run pieces in one process until all are done or the process ends; returns what is left to do.

    What was running when the process ended is the culprit, and is not run again.
    """
    job = {"language": folder.language, "folder": str(folder.path.resolve()), "pieces": [_job(one) for one in todo]}
    done: set[tuple[str, str | None]] = set()
    with Child(job) as child:
        try:
            for answer in child.answers(seconds):
                _take(answer, by_file[answer["piece"]])
                if "call" not in answer:
                    done.add((answer["piece"], answer.get("function")))
        except Ended as ended:
            _blame(todo, done, Failure("ended", str(ended)))
    return [one for one in todo if not one.failure and any(_is_left(function) for function in one.functions)]


def _is_left(function: Checked) -> bool:
    return not function.missing and len(function.attempts) < len(function.cases) and not (
        function.attempts and function.attempts[-1].failure and function.attempts[-1].failure.kind == "ended"
    )  # fmt: skip


def _job(one: CheckedPiece) -> dict[str, Any]:
    functions = [
        {"name": each.function.name, "calls": [_call(case) for case in each.cases]}
        for each in one.functions
        if _is_left(each)
    ]
    return {"module": one.label, "functions": functions}


def _call(case: Case) -> dict[str, Any]:
    cotangent = None if case.cotangent is None else encode(case.cotangent)
    return {"arguments": encode(list(case.arguments.values())), "cotangent": cotangent}


def _take(answer: dict[str, Any], one: CheckedPiece) -> None:
    """Put an answer where it belongs."""
    if "function" not in answer:
        one.failure = Failure.of(answer["failed"]) if "failed" in answer else None
        one.printed = answer["printed"]
        return
    checked = next(each for each in one.functions if each.function.name == answer["function"])
    if answer.get("missing"):
        checked.missing = True
    elif "call" in answer:
        names = list(checked.cases[answer["call"]].arguments)
        checked.attempts.append(_attempt(answer, names))


def _attempt(answer: dict[str, Any], names: Sequence[str]) -> Attempt:
    failed, gradient_failed = answer.get("failed"), answer.get("gradient_failed")
    return Attempt(
        decode(answer.get("value")),
        Failure.of(failed) if failed else None,
        decode(answer.get("gradients")),
        Failure.of(gradient_failed) if gradient_failed else None,
        answer["printed"],
        tuple(names[i] for i in answer.get("changed", ())),
    )


def _blame(todo: Sequence[CheckedPiece], done: set[tuple[str, str | None]], failure: Failure) -> None:
    """Give the failure to the file or the function that was running."""
    for one in todo:
        module = one.label
        if (module, None) not in done:
            one.failure = failure
            return
        for function in one.functions:
            if (module, function.function.name) not in done and _is_left(function):
                function.attempts.append(Attempt(failure=failure))
                return
