"""A picture of what the context is worth: loss by position in the window, and by the length of the windows."""

from pathlib import Path

import numpy as np

from jaxllm.utils.files import replace_file

from ..plotting import content, import_matplotlib, new_figure, noted
from .evaluate_context import PositionLosses


def draw_context(losses: dict[int, PositionLosses], title: str, path: Path) -> None:
    """Draw both curves on one logarithmic axis of tokens; a note where that fails."""
    with noted(path):
        replace_file(path, _context_plot(losses, title, path.suffix))


def _context_plot(losses: dict[int, PositionLosses], title: str, suffix: str) -> bytes:
    longest = losses[max(losses)]
    with import_matplotlib().rc_context({"text.parse_math": False}):  # dollar signs are text
        figure = new_figure(8, 4.5, layout="constrained")
        axes = figure.subplots()
        axes.errorbar(
            np.arange(1, len(longest.means) + 1), longest.means, longest.errors,
            fmt=".", color="tab:blue", alpha=0.6, linewidth=0.8,
            label=f"a token after x tokens of a window of {max(losses):,}, with its standard error",
        )  # fmt: skip
        axes.plot(
            list(losses), [one.loss for one in losses.values()],
            "o-", color="tab:orange", label="all tokens, in windows of x",
        )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(losses), [f"{length:,}" for length in losses])
        axes.set(xlabel="tokens of context", ylabel="loss (nats per token)", title=title)
        axes.grid(alpha=0.3)
        axes.legend()
        return content(figure, suffix, dpi=120)
