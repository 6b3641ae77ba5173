"""Mistakes that are written into right solutions are named, each as the slip that it is."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from learn.written_mistakes import MISTAKES
from learned import SOLUTIONS

from train.learn.checking.calls import attempted, make_cases
from train.learn.checking.diagnose import diagnose
from train.learn.course import file_name, piece

pytestmark = pytest.mark.newest


@pytest.mark.parametrize(
    ("folder", "name", "function", "slip", "old", "new"), MISTAKES, ids=[f"{m[1]}-{m[0]}-{m[3]}" for m in MISTAKES]
)
def test_a_written_mistake_is_named(
    folder: str, name: str, function: str, slip: str, old: str, new: str, tmp_path: Path
) -> None:
    text = (SOLUTIONS / folder / file_name(name)).read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "mistaken.py"
    path.write_text(text.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location("mistaken", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (right,) = (one for one in piece(name).functions if one.name == function)
    cases = make_cases(right, np.random.default_rng(3))
    with np.errstate(all="ignore"):
        attempts = [attempted(getattr(module, function), case) for case in cases]
    assert [diagnosis.names for diagnosis in diagnose(right, cases, attempts)] == [(slip,)]
