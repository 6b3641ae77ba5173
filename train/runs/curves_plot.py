"""A picture of groups of runs: validation loss over tokens, seconds and FLOPs, with the spread of the seeds."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxllm.utils.files import replace_file

from ..plotting import content, import_matplotlib, new_figure, noted
from .compared import Group, RunSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COSTS: dict[str, Callable[[RunSummary, int], float]] = {  # of a run up to a step
    "tokens": lambda run, step: run.tokens(step),
    "seconds": lambda run, step: run.evaluated[step]["elapsed_s"],
    "FLOPs": lambda run, step: run.flops(step),
}


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


def _colour(number: int, of: int) -> object:
    """Colours that are easily told apart, as far as there are enough of them."""
    from matplotlib import colormaps

    return colormaps["tab10"](number) if of <= 10 else colormaps["viridis"](number / (of - 1))


def _draw_group(
    axes: "Axes", group: Group, label: str, colour: object, cost: Callable[[RunSummary, int], float]
) -> None:
    """The mean over the seeds at each step that all have evaluated, at the mean of what that step cost them."""
    finished = group.finished
    steps = sorted(set.intersection(*(set(run.evaluated) for run in finished))) if finished else []
    x = np.array([[cost(run, step) for step in steps] for run in finished]).reshape(-1, len(steps))
    y = np.array([[run.evaluated[step]["val_loss"] for step in steps] for run in finished]).reshape(-1, len(steps))
    mean = (x.mean(0), y.mean(0)) if finished else ([], [])
    axes.plot(*mean, "o-", markersize=3, color=colour, label=label)  # type: ignore[arg-type]
    if len(finished) > 1:
        axes.fill_between(x.mean(0), y.min(0), y.max(0), color=colour, alpha=0.2, linewidth=0)  # type: ignore[arg-type]
    for run in group.runs:
        if run.unfinished:
            at = sorted(run.evaluated)
            losses = [run.evaluated[step]["val_loss"] for step in at]
            axes.plot([cost(run, step) for step in at], losses, ".--", color=colour, linewidth=1)  # type: ignore[arg-type]
