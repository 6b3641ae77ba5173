"""The pieces of the model, their cases and slips, and calls that take part in a comparison."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from train.learn.course import ORDER, piece
from train.learn.piece import Arguments, Function, Slip

NAMES = ORDER[ORDER.index("simple_attention") : ORDER.index("gpt") + 1]
SEEDS = (0, 1)


def functions() -> list[tuple[str, Function]]:
    """All functions of the pieces, with the piece's name."""
    return [(name, function) for name in NAMES for function in piece(name).functions]


def slips() -> list[tuple[Function, Slip]]:
    """All slips, with the function they belong to."""
    return [(function, slip) for _, function in functions() for slip in function.slips]


def cases(function: Function, seed: int = 0) -> list[Arguments]:
    """The calls that are made with a seed."""
    return list(function.cases(np.random.default_rng(seed)))


def moderate(arguments: Any) -> bool:
    """Whether no number is so large that finite differences are too coarse."""
    if isinstance(arguments, dict):
        return all(map(moderate, arguments.values()))
    return arguments is None or bool(np.all(np.abs(arguments) < 9))


def equal(a: Any, b: Any) -> bool:
    """Of one shape and equal to rounding; NaN equals NaN."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-9, atol=1e-9, equal_nan=True)


def everywhere(function: Function, one: Any, other: Any) -> bool:
    """Whether two functions are equal on all calls."""
    return all(equal(one(*case.values()), other(*case.values())) for seed in SEEDS for case in cases(function, seed))


def pairs(function: Function) -> Iterator[tuple[Slip, Slip]]:
    """Each two slips of a function."""
    for i, one in enumerate(function.slips):
        for other in function.slips[i + 1 :]:
            yield one, other
