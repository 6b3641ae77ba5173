"""Courses of a learner in a folder, made of the right solutions, and small trainings with them."""

import json
import shutil
from pathlib import Path

from learned import SOLUTIONS
from runs import TEXT

from train.learn.course import file_name

SIZES = {
    "model.context_length": 8, "model.d_model": 16, "model.n_layers": 2, "model.n_heads": 2, "train.steps": 4,
    "train.batch_size": 4, "optimizer.warmup_steps": 0, "optimizer.schedule": "constant", "eval.every": 4,
    "eval.sample_tokens": 12, "eval.prompt": "the ",
}  # fmt: skip


def course(folder: Path, style: str) -> Path:
    """A course with all pieces right, in a style of the solutions."""
    folder.mkdir()
    for path in (SOLUTIONS / style).glob("p*.py"):
        shutil.copy(path, folder)
    language = style if style in ("jax", "torch") else "numpy"
    (folder / "course.json").write_text(json.dumps({"version": 1, "language": language}))
    return folder


def rewrite(folder: Path, piece: str, old: str, new: str) -> None:
    """Replace a text that the file of a piece holds."""
    path = folder / file_name(piece)
    text = path.read_text()
    assert old in text, f"{path} has changed"
    path.write_text(text.replace(old, new))


def overrides(folder: Path) -> list[str]:
    """The options of a small training on a text in this folder."""
    (folder / "text.txt").write_text(TEXT)
    given = {"data.source": folder / "text.txt", **SIZES}
    return [word for key, value in given.items() for word in ("--set", f"{key}={value}")]
