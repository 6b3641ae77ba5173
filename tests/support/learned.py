"""The learner's side of the course, for tests: right solutions, all cases of a function, and when two results agree."""

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from train.learn.course import file_name
from train.learn.piece import Function

SOLUTIONS = Path(__file__).parent / "learn" / "solutions"
STYLES = ("loops", "einsum", "library")


@cache
def solution(folder: str, name: str) -> Any:
    """The module of a piece in a folder of solutions."""
    path = SOLUTIONS / folder / file_name(name)
    spec = importlib.util.spec_from_file_location(f"{folder}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    earlier = {key: sys.modules.pop(key) for key in list(sys.modules) if key[:1] == "p" and key[1:3].isdigit()}
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
        for key in [key for key in sys.modules if key[:1] == "p" and key[1:3].isdigit()]:
            del sys.modules[key]
        sys.modules.update(earlier)
    return module


def calls(function: Function, seed: int = 0) -> list[tuple[Any, ...]]:
    """The arguments of all cases of a function, by position."""
    return [tuple(case.values()) for case in function.cases(np.random.default_rng(seed))]


def outcome(function: Any, arguments: tuple[Any, ...]) -> Any:
    """The result of a call. A call that raises has its exception's type as result."""
    with np.errstate(all="ignore"):
        try:
            return function(*arguments)
        except (ValueError, IndexError, OverflowError) as error:
            return type(error).__name__


def agree(got: Any, want: Any) -> bool:
    """Whether two results are equal: strings and integers exactly, floats to rounding, all with the same shapes."""
    if isinstance(want, dict):
        return isinstance(got, dict) and got.keys() == want.keys() and all(agree(got[key], want[key]) for key in want)
    if isinstance(want, tuple | list):
        same = isinstance(got, tuple | list) and len(got) == len(want)
        return same and all(agree(a, b) for a, b in zip(got, want, strict=True))
    if isinstance(want, str) or isinstance(got, str):
        return isinstance(got, str) and isinstance(want, str) and got == want
    if got is None or want is None:
        return got is want
    got, want = np.asarray(got), np.asarray(want)
    if got.shape != want.shape or got.dtype.kind not in "biuf":
        return False
    if want.dtype.kind in "biu":
        return np.array_equal(got, want)
    return np.allclose(got, want, rtol=1e-9, atol=1e-12, equal_nan=True)
