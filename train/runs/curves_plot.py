"""A picture of groups of runs: validation loss over tokens, seconds and FLOPs, with the spread of the seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from jaxllm.utils.files import replace_file

from ..plotting import content, import_matplotlib, new_figure, noted
from .compared import Group
from .summary import RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cost = Callable[[RunSummary, int], float | None]
COSTS: dict[str, Cost] = {  # of a run up to a step
    "tokens": lambda run, step: run.tokens(step),
    "seconds": lambda run, step: run.evaluated[step]["elapsed_s"],
    "FLOPs": lambda run, step: run.flops(step),
}


def curve(runs: Sequence[RunSummary], cost: Cost) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean costs [n], NaN where unknown, and losses [runs, n] of evaluated runs, at steps that all were evaluated at.

    The last point is of the last step of each: runs with a time limit end at steps of their own.
    """
    ends = [max(run.evaluated) for run in runs]
    common = sorted(step for step in set.intersection(*(set(run.evaluated) for run in runs)) if step < min(ends))
    steps = [(run, [*common, end]) for run, end in zip(runs, ends, strict=True)]
    costs = np.array([[cost(run, step) for step in of_run] for run, of_run in steps], np.float64)
    return costs.mean(0), np.array([[run.loss(step) for step in of_run] for run, of_run in steps], np.float64)


def draw_curves(groups: Sequence[Group], labels: Sequence[str], path: Path) -> None:
    """Draw the curves of the groups; a note where that fails."""
    with noted(path):
        replace_file(path, _curves_plot(groups, labels, path.suffix))


def _curves_plot(groups: Sequence[Group], labels: Sequence[str], suffix: str) -> bytes:
    """Three panels. A group is a line, the mean of its seeds, within a band from the lowest to the highest.

    Runs that are not finished are dashed lines of their own.
    """
    with import_matplotlib().rc_context({"text.parse_math": False}):  # dollar signs are text
        figure = new_figure(13, 4.5, layout="constrained")
        panels = figure.subplots(1, len(COSTS), sharey=True)
        for axes, name in zip(panels, COSTS, strict=True):
            for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
                _draw_group(axes, group, label, _colour(number, len(groups)), COSTS[name])
            axes.set(xlabel=name)
            axes.grid(alpha=0.3)
        panels[0].set(ylabel="validation loss (nats per token)")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return content(figure, suffix, dpi=120)


def _colour(number: int, of: int) -> Any:
    """Colours that are easily told apart, as far as there are enough of them."""
    from matplotlib import colormaps

    return colormaps["tab10"](number) if of <= 10 else colormaps["viridis"](number / (of - 1))


def _draw_group(axes: "Axes", group: Group, label: str, colour: Any, cost: Cost) -> None:
    """The line and the band, then the dashed lines."""
    axes.plot([], "o-", markersize=3, color=colour, label=label)  # for the legend, whatever there is to draw
    if group.finished:
        x, losses = curve(group.finished, cost)
        axes.plot(x, losses.mean(0), "o-", markersize=3, color=colour)
        axes.fill_between(x, losses.min(0), losses.max(0), color=colour, alpha=0.2, linewidth=0)
    for run in group.runs:
        if run.unfinished and run.evaluated:
            x, losses = curve([run], cost)
            axes.plot(x, losses[0], ".--", color=colour, linewidth=1)
