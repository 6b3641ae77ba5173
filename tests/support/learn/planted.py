"""Mistakes planted in the text of right solutions, and what the diagnosis names them."""

import importlib
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from learned import SOLUTIONS

from train.learn.checking.calls import attempted, make_cases
from train.learn.checking.diagnose import diagnose, differences
from train.learn.course import file_name, piece


def planted(style: str, name: str, replacements: dict[str, str], folder: Path) -> Any:
    """The module of a solution in which each of the texts, which must occur, is replaced."""
    shutil.copytree(SOLUTIONS / style, folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / file_name(name)
    text = path.read_text(encoding="utf-8")
    for old, new in replacements.items():
        assert old in text, f"{path.name} of {style} has no {old!r}"
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    _forget()
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(path.stem)
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    """Forget the modules of other solutions, which have the same names."""
    for name in [name for name in sys.modules if name[:1] == "p" and name[1:3].isdigit()]:
        del sys.modules[name]


def names_given(module: Any, name: str, function_name: str, seed: int) -> list[tuple[str, ...]] | None:
    """The names of the diagnoses; None if the function is right."""
    function = next(one for one in piece(name).functions if one.name == function_name)
    cases = make_cases(function, np.random.default_rng(seed))
    attempts = [attempted(getattr(module, function_name), case) for case in cases]
    if not any(differences(cases, attempts)) and not any(attempt.failure for attempt in attempts):
        return None
    return [diagnosis.names for diagnosis in diagnose(function, cases, attempts)]
