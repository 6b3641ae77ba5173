"""Learners' folders, and what `jaxllm learn check` prints of them."""

import json
from pathlib import Path

import pytest

from train.cli import main

RIGHT = """
import numpy as np


def scaled_dot_product_attention(q, k, v, mask=None):
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, np.finfo(float).min)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True) @ v
"""


def folder(path: Path, language: str = "numpy", **files: str) -> Path:
    """A course folder with those files, such as `p10_scaled_dot_product="..."`."""
    (path / "course.json").write_text(json.dumps({"version": 1, "language": language}))
    for name, text in files.items():
        (path / f"{name}.py").write_text(text, encoding="utf-8")
    return path


def attention(path: Path, body: str, language: str = "numpy") -> Path:
    """A folder in which piece 10 alone is written."""
    return folder(path, language, p10_scaled_dot_product=body)


def checked(path: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit code and what is printed by `jaxllm learn check`, by default of piece 10."""
    capsys.readouterr()
    code = main(["learn", "check", *(words or ("10",)), "--dir", str(path)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err
