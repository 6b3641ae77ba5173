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
            found, before = found or jump, max(before, row.relative)
            marked.append(replace(row, jump=jump))
        return cls(dtype, tuple(marked))

    @property
    def passed(self) -> bool:
        """Whether every row is within its tolerance."""
        return all(row.passed for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """The report as a dict for JSON, where a non-finite error becomes None."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        for row in rows:
            row |= {k: None for k in ("max_abs", "relative", "ulp") if not math.isfinite(row[k])}
        return {"dtype": self.dtype, "passed": self.passed, "rows": rows}

    def summary(self) -> str:
        """One sentence: the number of comparisons, and the one closest to its tolerance or the first that failed."""
        failed = [row for row in self.rows if not row.passed]
        if failed:
            return (
                f"{self.dtype}: {len(failed)} of {len(self.rows)} comparisons are beyond tolerance; "
                f"look at {failed[0].stage} {failed[0].name} first"
            )
        worst = max(self.rows, key=lambda row: row.share)
        return (
            f"{self.dtype}: all {len(self.rows)} comparisons within tolerance; closest to it is {worst.stage} "
            f"{worst.name} with {error_text(worst.relative, worst.tolerance)} of {bound_text(worst.tolerance)}"
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
        verdict = "ok" if row.passed else "BEYOND"
        remark = "  <- the error jumps here" * row.jump + f"  ({row.note})" * bool(row.note)
        lines.append(
            f"  {row.name:{width - 2}}{_shape(row.shape):>18}{row.max_abs:>10.1e}"
            f" {error_text(row.relative, row.tolerance):>9}{row.ulp:>10.3g} {bound_text(row.tolerance):>10}"
            f"  {verdict}{remark}"
        )
    return lines


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
    """The worst row of each top-level name in each stage, which keeps a table of parameters short."""
    groups: dict[tuple[str, str], list[Comparison]] = {}
    for row in rows:
        groups.setdefault((row.stage, row.name.split("/")[0]), []).append(row)
    out = []
    for (_, top), group in groups.items():
        worst = max(group, key=lambda row: (not row.passed, row.share))
        inner = worst.name.removeprefix(top + "/")
        name = worst.name if len(group) == 1 else f"{top} (worst of {len(group)}: {inner})"
        out.append(replace(worst, name=name, jump=any(row.jump for row in group)))
    return out
