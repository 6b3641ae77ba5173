"""The picture of `jaxllm coordinates`: how far some steps move activations against the width."""

from pathlib import Path
from typing import Any

from jaxllm.utils.files import replace_file

from ..plotting import content, new_figure, noted
from .coordinates_moves import ACTIVATIONS, MUP, STANDARD


def draw_coordinates(figures: dict[str, Any], path: Path) -> None:
    """Draw the moves on logarithmic axes, with dashes the sizes before the first step; a note where that fails."""
    with noted(path):
        replace_file(path, _picture(figures, path.suffix))


def _picture(figures: dict[str, Any], suffix: str) -> bytes:
    figure = new_figure(9, 4.5, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), (STANDARD, MUP), strict=True):
        for i, activation in enumerate(ACTIVATIONS):
            found = figures[name][activation]
            power = "" if (slope := found["moved"]["slope"]) is None else f", slope {slope:+.2f}"
            axes.loglog(figures["widths"], found["moved"]["values"], "o-", color=f"C{i}", label=f"{activation}{power}")
            axes.loglog(figures["widths"], found["before"]["values"], "--", color=f"C{i}", alpha=0.4)
        axes.set_xticks(figures["widths"], list(map(str, figures["widths"])), minor=False)
        axes.set_xticks([], minor=True)
        axes.set(xlabel="width", title=f"{name}: moved by {figures['steps']} steps (dashed: size before)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[0].set_ylabel("mean absolute value")
    return content(figure, suffix, dpi=120)
