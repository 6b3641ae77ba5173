"""The report of a comparison: a table with a verdict in each row, and the first place where the error jumps.

Rows stand in the order of computation, so the jump is where two models part.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from jaxllm.compare.measure import Comparison

JUMP = 10  # an error jumps where it is over JUMP times all errors before, over JUMP ulp and over tolerance / JUMP


@dataclass(frozen=True)
class Report:
    """All comparisons, in the order of computation. `str(report)` is the table with a summary."""

    dtype: str
    rows: tuple[Comparison, ...]

    @classmethod
    def of(cls, dtype: str, rows: Iterable[Comparison]) -> "Report":
        """The report of `rows`, with the first jump of the error marked.

        A row within tolerance whose note explains its error does not count as a jump.
        """
        marked, before, found = [], 0.0, False
        for row in rows:
            above = row.relative > JUMP * before and row.relative > row.tolerance / JUMP and row.ulp > JUMP
            jump = above and not found and not (row.note and row.passed)
            found, before = found or jump, max(before, row.relative)  # NaN, where nothing was compared, is not larger
            marked.append(replace(row, jump=jump))
        return cls(dtype, tuple(marked))

    @property
    def passed(self) -> bool:
        """Whether every row that was compared is within its tolerance."""
        return not any(row.failed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The report as a dict for JSON, where a non-finite error and the verdict on what was not compared are None."""
        rows = [asdict(row) | {"passed": row.passed if row.compared else None} for row in self.rows]
        for row in rows:
            row |= {k: None for k in ("max_abs", "relative", "ulp", "tolerance") if not math.isfinite(row[k])}
        return {"dtype": self.dtype, "passed": self.passed, "rows": rows}

    def summary(self) -> str:
        """One sentence: the number of comparisons, and the one closest to its tolerance or the first that failed.

        What is held to nothing is counted apart.
        """
        compared = [row for row in self.rows if row.compared]
        n = len(self.rows) - len(compared)
        apart = f"; {n} more {'is' if n == 1 else 'are'} held to nothing, without a reference" if n else ""
        failed = [row for row in compared if row.failed]
        if failed:
            return (
                f"{self.dtype}: {len(failed)} of {len(compared)} comparisons are beyond tolerance; "
                f"look at {failed[0].stage} {failed[0].name} first{apart}"
            )
        if not compared:
            return f"{self.dtype}: nothing was compared{apart}"
        worst = max(compared, key=lambda row: row.share)
        return (
            f"{self.dtype}: all {len(compared)} comparisons within tolerance; closest to it is {worst.stage} "
            f"{worst.name} with {error_text(worst.relative, worst.tolerance)} of {bound_text(worst.tolerance)}{apart}"
        )

    def __str__(self) -> str:
        return "\n".join([*table(self.rows), self.summary()])


def table(rows: Iterable[Comparison]) -> list[str]:
    """The lines of the table, each stage under its name."""
    rows = list(rows)
    width = max([len(row.name) for row in rows] + [10]) + 2
    lines = [f"{'':{width}}{'shape':>18}{'max abs':>10}{'relative':>10}{'ulp':>10}{'tolerance':>11}"]
    stage = ""
    for row in rows:
        if row.stage != stage:
            stage = row.stage
            lines.append(stage)
        remark = "  <- the error jumps here" * row.jump + f"  ({row.note})" * bool(row.note)
        lines.append(f"  {row.name:{width - 2}}{_shape(row.shape):>18}{_errors(row)}  {row.verdict}{remark}")
    return lines


def _errors(row: Comparison) -> str:
    """The four columns of numbers."""
    if not row.compared:
        return f"{'-':>10}{'-':>10}{'-':>10}{'-':>11}"
    return (
        f"{row.max_abs:>10.1e} {error_text(row.relative, row.tolerance):>9}{row.ulp:>10.3g} "
        f"{bound_text(row.tolerance):>10}"
    )


def bound_text(tolerance: float) -> str:
    """A tolerance with all its digits.

    >>> bound_text(0.15)
    '1.5e-01'
    """
    return np.format_float_scientific(tolerance, trim="-", exp_digits=2)


def error_text(error: float, tolerance: float) -> str:
    """An error in two digits; in more if two do not show whether it is within the tolerance.

    >>> error_text(0.1504, 0.15)
    '1.504e-01'
    """
    texts = (f"{error:.{digits}e}" for digits in range(1, 17))
    return next(text for text in texts if (float(text) <= tolerance) == (error <= tolerance))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def fold(rows: Iterable[Comparison]) -> list[Comparison]:
    """The worst row of each top-level name in each stage, which keeps a table of parameters short.

    What is held to nothing has rows of its own.
    """
    groups: dict[tuple[str, str, bool], list[Comparison]] = {}
    for row in rows:
        groups.setdefault((row.stage, row.name.split("/")[0], row.compared), []).append(row)
    out = []
    for (_, top, compared), group in groups.items():
        worst = max(group, key=lambda row: (row.failed, row.share))
        inner = worst.name.removeprefix(top + "/")
        several = f"{top} (worst of {len(group)}: {inner})" if compared else f"{top} ({len(group)})"
        name = worst.name if len(group) == 1 else several
        out.append(replace(worst, name=name, jump=any(row.jump for row in group)))
    return out
