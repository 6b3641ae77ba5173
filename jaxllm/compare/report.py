"""How far one array lies from another: rows of a table with a verdict each, and the first place where error jumps.

llm.c compares tensors at hand-picked absolute bounds, Levanter and litgpt whole logits at one tolerance; neither says
where two models part. Here every tensor is measured on its own scale, in the order of computation.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

JUMP = 10  # times the largest error before, and above JUMP ulp and the tolerance over JUMP
CANCELS = 10  # times its largest value: a scale that a note must tell
VANISHES = 1e-12  # of its module's largest: a gradient in float64 that is zero but for rounding


@dataclass(frozen=True)
class Row:
    """One tensor against its reference."""

    stage: str
    name: str
    shape: tuple[int, ...]
    max_abs: float  # the largest error; inf where a value is missing, not a number, or the shapes differ
    relative: float  # max_abs over the scale: the largest absolute value of the reference, or of its terms
    ulp: float  # max_abs in units in the last place of that value, in the dtype of the computation
    tolerance: float  # of the relative error
    jump: bool = False  # the first place where the error is far above all errors before
    note: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within tolerance."""
        return self.relative <= self.tolerance

    @property
    def share(self) -> float:
        """How much of the tolerance the error takes."""
        if self.relative == 0:
            return 0.0
        return self.relative / self.tolerance if self.tolerance else math.inf


def measure(
    stage: str, name: str, got: Any, want: Any, tolerance: float, dtype: str, scale: float | None = None
) -> Row:
    """The row for an array `got`, computed in `dtype`, and its reference `want`.

    Errors are taken relative to `scale`, the largest finite absolute value of `want` unless given (a note tells where
    it is far more than that); where it is 0 or too small for the dtype, they are absolute. The same infinity in both is
    agreement, and so is NaN in both, but a tensor of nothing but NaN shows nothing and fails; NaN in one alone is an
    error of inf.
    """
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if got.shape != want.shape:
        return failed_row(stage, name, got.shape, tolerance, f"the reference has shape {want.shape}")
    lost = np.isnan(got) & np.isnan(want)
    if lost.all() and lost.size:
        return failed_row(stage, name, got.shape, tolerance, "nothing but NaN in both")
    with np.errstate(invalid="ignore"):
        error = np.where((got == want) | lost, 0.0, np.abs(got - want))
    max_abs = float(np.nan_to_num(error, nan=math.inf, posinf=math.inf).max(initial=0.0))
    own = largest(want)
    scale = own if scale is None else scale
    note = f"its terms cancel to {own / scale:.0e} of their size" if own * CANCELS < scale else ""
    scale = scale if scale >= float(jnp.finfo(dtype).tiny) else 1.0
    ulp = float(jnp.finfo(dtype).eps) * 2.0 ** math.floor(math.log2(scale))
    note = f"{lost.sum()} NaN in both" if lost.any() else note
    return Row(stage, name, got.shape, max_abs, max_abs / scale, max_abs / ulp, tolerance, note=note)


def failed_row(stage: str, name: str, shape: tuple[int, ...], tolerance: float, note: str) -> Row:
    """A row beyond any tolerance, and why."""
    return Row(stage, name, shape, math.inf, math.inf, math.inf, tolerance, note=note)


def named_leaves(tree: Any, root: str = "") -> dict[str, Any]:
    """The leaves of a pytree by path, `block_0/norm_1/scale`; those of dicts, lists and tuples in their own order."""
    if isinstance(tree, Mapping):
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    elif jax.tree_util.all_leaves([tree]):
        return {root: tree}
    else:  # one level of whatever else JAX knows
        inside, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
        items = ((jax.tree_util.keystr(key, simple=True), node) for key, node in inside)
    return {path: x for key, inner in items for path, x in named_leaves(inner, f"{root}/{key}".lstrip("/")).items()}


def compare_trees(
    stage: str,
    got: Any,
    want: Any,
    tolerance: float,
    dtype: str,
    root: str = "",
    scales: Mapping[str, float] | None = None,
) -> list[Row]:
    """A row for each leaf, each on its own scale or that in `scales` where it is larger, in the order of `want`.

    Raises ValueError where a leaf is in one tree only.
    """
    ours, theirs = named_leaves(got, root), named_leaves(want, root)
    if ours.keys() != theirs.keys():
        here, there = sorted(ours.keys() - theirs.keys()), sorted(theirs.keys() - ours.keys())
        raise ValueError(
            f"{stage}: only ours has {here}, only the reference has {there}; both must hold the same arrays."
        )
    at_least = scales or {}
    return [
        measure(stage, name, ours[name], leaf, tolerance, dtype, max(largest(leaf), at_least.get(name, 0.0)))
        for name, leaf in theirs.items()
    ]


def scales_of_vanishing(gradients: Any, root: str = "") -> dict[str, float]:
    """For gradients that vanish but for rounding, as that of a key's bias, the scale of their module: the leaves
    beside them."""
    scales = {name: largest(leaf) for name, leaf in named_leaves(gradients, root).items()}
    modules: dict[str, float] = {}
    for name, scale in scales.items():
        modules[_module(name)] = max(scale, modules.get(_module(name), 0.0))
    return {name: modules[_module(name)] for name, s in scales.items() if s <= VANISHES * modules[_module(name)]}


def _module(name: str) -> str:
    return name.rpartition("/")[0]


def largest(x: Any) -> float:
    """The largest finite absolute value, 0 where there is none."""
    x = np.asarray(x, np.float64)
    return float(np.abs(x, where=np.isfinite(x), out=np.zeros(np.shape(x))).max(initial=0.0))


@dataclass(frozen=True)
class Report:
    """What was measured, in the order of computation; `str` of it is a table."""

    dtype: str
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, dtype: str, rows: Iterable[Row]) -> "Report":
        """A report that marks the first row whose error is `JUMP` times all before it, no rounding, not explained."""
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
        """For JSON: an error that is not finite becomes None."""
        rows = [asdict(row) | {"passed": row.passed} for row in self.rows]
        for row in rows:
            row |= {k: None for k in ("max_abs", "relative", "ulp") if not math.isfinite(row[k])}
        return {"dtype": self.dtype, "passed": self.passed, "rows": rows}

    def summary(self) -> str:
        """One sentence: how many comparisons, and the worst or the first that failed."""
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


def table(rows: Iterable[Row]) -> list[str]:
    """Lines of text, each stage under its name."""
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
    """All digits of a tolerance.

    >>> bound_text(0.15)
    '1.5e-01'
    """
    return np.format_float_scientific(tolerance, trim="-", exp_digits=2)


def error_text(error: float, tolerance: float) -> str:
    """An error in two digits, or in as many as show on which side of the tolerance it is.

    >>> error_text(0.1504, 0.15)
    '1.504e-01'
    """
    texts = (f"{error:.{digits}e}" for digits in range(1, 17))
    return next(text for text in texts if (float(text) <= tolerance) == (error <= tolerance))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def fold(rows: Iterable[Row]) -> list[Row]:
    """For each top-level name of a stage the worst of its rows, so that a table of parameters stays short."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.stage, row.name.split("/")[0]), []).append(row)
    out = []
    for (_, top), group in groups.items():
        worst = max(group, key=lambda row: (not row.passed, row.share))
        inner = worst.name.removeprefix(top + "/")
        name = worst.name if len(group) == 1 else f"{top} (worst of {len(group)}: {inner})"
        out.append(replace(worst, name=name, jump=any(row.jump for row in group)))
    return out
