"""The first step at which the metrics of two runs differ, in which fields, and by how much."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import Record

TIMES = frozenset({"step", "elapsed_s", "train_s", "data_wait_s", "tokens_per_s"})  # what is not compared
# Fields in the order in which a step computes them; those of the user's come before the evaluation.
FIRST, LAST = ("tokens", "schedule_step", "learning_rate", "train_loss", "grad_norm"), ("val_loss", "averaged_val_loss")


@dataclass(frozen=True)
class Apart:
    """A field in which two records differ."""

    name: str
    values: tuple[Any, Any]

    @property
    def off(self) -> float:
        """The difference; inf where one of the two is no number."""
        return _off(*self.values)


@dataclass(frozen=True)
class Parting:
    """What two metrics.jsonl have in common, and the first step at which they differ."""

    counts: tuple[int, int]  # the steps that each has recorded
    n_common: int
    step: int | None = None  # the first at which they differ; None if they agree
    before: int | None = None  # the step of both before that one
    apart: Sequence[Apart] = ()  # the fields that differ at that step
    equal: Sequence[str] = ()  # those that agree there
    later: tuple[int, Apart] | None = None  # where the training loss differs most, if that is another step

    @property
    def meaning(self) -> str:
        """What can be the cause, by which fields of the step differ; "" where the fields do not show it."""
        names = {one.name for one in self.apart}
        if self.step is None or "tokens" in names:
            return ""
        if "train_loss" in names and self.step == 1:
            return "the first loss differs: look at the initial weights, the first batch, or the forward pass"
        if "train_loss" in names and self.before == self.step - 1:
            return (
                f"all that step {self.before:,} recorded agrees: look at the update of step {self.before:,}, or at the "
                f"batch of step {self.step:,}"
            )
        if "train_loss" in names:
            return ""
        if names & {"grad_norm"}:
            return "the loss agrees and its gradient does not: look at the backward pass"
        if names & {"learning_rate", "schedule_step"}:
            return "the loss and its gradient agree: only the schedule differs, up to here"
        return ""


def where_metrics_part(ours: Iterable[Record], theirs: Iterable[Record], tolerance: float = 0.0) -> Parting:
    """The parting of two lists of records.

    Two numbers agree where they differ by at most `tolerance` times the larger one's absolute value. Times and speeds
    are left out, and so are fields that one of two records does not have.
    """
    sides = [{int(record["step"]): record for record in records} for records in (ours, theirs)]
    common = sorted(sides[0].keys() & sides[1].keys())
    pairs = {step: (sides[0][step], sides[1][step]) for step in common}
    counts = len(sides[0]), len(sides[1])
    for step, pair in pairs.items():
        fields = _fields(*pair)
        if apart := [one for one in fields if not _agree(one, tolerance)]:
            before = max((earlier for earlier in common if earlier < step), default=None)
            equal = [one.name for one in fields if one not in apart]
            return Parting(counts, len(common), step, before, apart, equal, _later(pairs, step))
    return Parting(counts, len(common))


def _fields(ours: Record, theirs: Record) -> list[Apart]:
    """The fields that both records have, in the order of computation."""
    names = [name for name in ours if name in theirs and name not in TIMES]
    own = [name for name in names if name not in (*FIRST, *LAST)]
    ordered = [name for name in (*FIRST, *own, *LAST) if name in names]
    return [Apart(name, (ours[name], theirs[name])) for name in ordered]


def _agree(one: Apart, tolerance: float) -> bool:
    ours, theirs = one.values
    if ours == theirs:
        return True
    return one.off <= tolerance * max(abs(ours), abs(theirs)) if math.isfinite(one.off) else False


def _off(ours: Any, theirs: Any) -> float:
    if ours == theirs:
        return 0.0
    if not all(isinstance(value, int | float) for value in (ours, theirs)):
        return math.inf  # null, where a step was left out
    return abs(ours - theirs)


def _later(pairs: Mapping[int, tuple[Record, Record]], first: int) -> tuple[int, Apart] | None:
    """The step after `first` with the largest finite difference of the training loss, if it is larger than there."""
    losses = {step: Apart("train_loss", (a["train_loss"], b["train_loss"])) for step, (a, b) in pairs.items()}
    finite = {step: one for step, one in losses.items() if step >= first and math.isfinite(one.off)}
    worst = max(finite, key=lambda step: finite[step].off, default=first)
    return None if worst == first else (worst, finite[worst])
