"""A picture of `jaxllm bench speedrun`: validation loss against seconds, every run of both sides."""

from collections.abc import Sequence
from pathlib import Path

from jaxllm.utils.files import replace_file

from ..plotting import content, new_figure, noted
from .speedrun_report import Round
from .whole_run import WholeRun


def draw_speedrun(rounds: Sequence[Round], loss: float, path: Path) -> None:
    """Draw the losses by the seconds since each process was started; a note where that fails."""
    with noted(path):
        replace_file(path, _speedrun_plot(rounds, loss, path.suffix))


def _speedrun_plot(rounds: Sequence[Round], loss: float, suffix: str) -> bytes:
    """A line for each run, in the colour of its side, and a horizontal one at the loss that is to be reached."""
    sides: dict[str, tuple[str, Sequence[WholeRun]]] = {
        "nanogpt, its whole run": ("tab:orange", [one.peer for one in rounds if one.peer]),
        "jaxllm, in as much time": ("tab:green", [one.within for one in rounds if one.within]),
        f"jaxllm to {loss:g}": ("tab:blue", [one.ours for one in rounds]),
    }
    figure = new_figure(8, 5, layout="constrained")
    axes = figure.subplots()
    for label, (colour, runs) in sides.items():
        for number, run in enumerate(runs):
            x, losses = zip(*run.curve, strict=True)
            name = label if number == 0 else None
            axes.plot(x, losses, "o-", markersize=3, linewidth=1, alpha=0.8, color=colour, label=name)
    axes.axhline(loss, color="black", linestyle="--", linewidth=0.8, label=f"a loss of {loss:g}")
    axes.set(xlabel="seconds from the command", ylabel="validation loss (nats per token)", xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    return content(figure, suffix, dpi=120)
