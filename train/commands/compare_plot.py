"""A picture of `jaxllm compare`: the relative error of every intermediate against depth."""

import math
from pathlib import Path

from jaxllm.compare.report import Report, bound_text
from jaxllm.utils.files import replace_file

from ..plotting import content, new_figure, noted


def draw_errors(report: Report, path: Path) -> None:
    """Draw the errors of the forward and the backward pass on a logarithmic axis.

    Where that fails, print a note: the comparison itself stands.
    """
    with noted(path):
        replace_file(path, _picture_of_errors(report, path.suffix))


def _picture_of_errors(report: Report, suffix: str) -> bytes:
    depth = [row.name for row in report.rows if row.stage == "forward"]
    figure = new_figure(9, 4.5, layout="constrained")
    axes = figure.subplots()
    for stage, colour in (("forward", "tab:blue"), ("backward", "tab:orange")):
        rows = sorted((row for row in report.rows if row.stage == stage), key=lambda row: depth.index(row.name))
        at = [depth.index(row.name) for row in rows]
        errors = [min(row.relative, 1e6) or math.nan for row in rows]  # 0 has no place on a logarithmic axis
        axes.semilogy(at, errors, "o-", color=colour, markersize=3, linewidth=0.8, label=stage)
        for tolerance in [row.tolerance for row in rows if row.compared][:1]:
            axes.axhline(tolerance, color=colour, linestyle=":", label=f"tolerance {bound_text(tolerance)}")
        for x, y, row in zip(at, errors, rows, strict=True):
            if row.jump:
                axes.annotate(f"jumps at {row.name}", (x, y), xytext=(5, 5), textcoords="offset points")
    ticks: list[int] = []
    for i, name in enumerate(depth):  # modules of the first level, where there is room
        if "/" not in name and (not ticks or i - ticks[-1] > len(depth) / 40):
            ticks.append(i)
    axes.set_xticks(ticks, [depth[i] for i in ticks], rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="relative error", title=f"{report.dtype} against float64 NumPy, by depth")
    axes.grid(alpha=0.3)
    axes.legend()
    return content(figure, suffix, dpi=120)
