"""loss.png: training and validation loss against the step."""

from collections.abc import Iterable
from pathlib import Path

from jaxllm.utils.files import replace_file

from ..plotting import content, new_figure, noted
from .metrics import Record


def draw_losses(records: Iterable[Record], path: Path) -> None:
    """Training loss of every step, its running mean, and the validation losses, as a PNG; a note where that fails."""
    records = [record for record in records if record["train_loss"] is not None]
    if records:
        with noted(path):
            replace_file(path, _loss_plot(records))


def is_older(path: Path, other: Path) -> bool:
    """Whether a file was last written before another one; a missing file is older than any."""

    def written(path: Path) -> float:
        return path.stat().st_mtime if path.exists() else 0.0

    return written(path) < written(other)


def _loss_plot(records: list[Record]) -> bytes:
    figure = new_figure(7, 4, layout="constrained")
    axes = figure.subplots()
    steps, losses = [r["step"] for r in records], [r["train_loss"] for r in records]
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, running_mean(losses), color="tab:blue", label="training (running mean)")
    evaluated = [r for r in records if "val_loss" in r]
    if evaluated:
        last = evaluated[-1]["val_loss"]
        axes.plot(
            [r["step"] for r in evaluated], [r["val_loss"] for r in evaluated],
            "o-", color="tab:orange", label=f"validation (last: {last:.3f})",
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="cross-entropy (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return content(figure, ".png", dpi=120)


def running_mean(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential mean of each prefix, with the bias of the start corrected as in Adam."""
    out, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(total / norm)
    return out
