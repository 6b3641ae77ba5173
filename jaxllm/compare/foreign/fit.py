"""The number of a slip, fitted to what was recorded, and how accurately the record fixes it."""

import math
from typing import NamedTuple

import numpy as np

from jaxllm.compare.foreign.hypotheses import OneNumber, Target
from jaxllm.reference.arrays import Array

MOST_STEPS = 30
MOST_HALVINGS = 5
STALLED = 0.99  # of the residuals before a step: what it leaves where it is the last
CLOSE_ENOUGH = 3  # accuracies between a fitted number and the round one that is named


class FittedNumber(NamedTuple):
    """A fitted number."""

    value: float
    accuracy: float  # the change of the number that would double what remains
    remaining: float  # the largest residual
    is_round: bool  # whether a number of at most two digits, or a named one, lies within the accuracy
    sentence: str


def fit(family: OneNumber, target: Target) -> FittedNumber | None:
    """The number by Gauss and Newton's method, from the best of the starts; None where no start gives a result.

    The residuals r(v) of v are followed along their slope J: v <- v - J r / J J, halved while r grows. A record that
    the slip explains has small residuals, for which the steps converge quadratically.
    """
    sizes = [_size(target.residuals(family.predict(start))) for start in family.starts]
    best = int(np.argmin(sizes))
    if not math.isfinite(sizes[best]):
        return None
    value, residuals = family.starts[best], target.residuals(family.predict(family.starts[best]))
    for _ in range(MOST_STEPS):
        slope = _slope(family, target, value)
        if not np.isfinite(slope).all() or not slope.any():
            break
        before = _size(residuals)
        value, residuals = _step(family, target, value, residuals, -float(slope @ residuals / (slope @ slope)))
        if _size(residuals) > STALLED * before:
            break
    return _described(family, target, value, residuals)


def _size(residuals: Array) -> float:
    return float(np.sqrt((residuals**2).mean()))


def _slope(family: OneNumber, target: Target, value: float) -> Array:
    """The derivative of the residuals by the number, from a difference."""
    h = 1e-4 * max(abs(value), family.smallest)
    below, above = max(value - h, family.lowest), value + h
    return (target.residuals(family.predict(above)) - target.residuals(family.predict(below))) / (above - below)


def _step(family: OneNumber, target: Target, value: float, residuals: Array, step: float) -> tuple[float, Array]:
    """The number after a step, halved until the residuals are smaller; unchanged where they never are."""
    for _ in range(MOST_HALVINGS):
        new = max(value + step, family.lowest)
        new_residuals = target.residuals(family.predict(new))
        if _size(new_residuals) < _size(residuals):
            return new, new_residuals
        step /= 2
    return value, residuals


def _described(family: OneNumber, target: Target, value: float, residuals: Array) -> FittedNumber | None:
    slope, remaining = _slope(family, target, value), float(np.abs(residuals).max())
    steepest = float(np.abs(slope).max())
    accuracy = max(remaining, 2.0**-52) / steepest if steepest else math.inf
    within = CLOSE_ENOUGH * accuracy + 1e-14 * abs(value)
    names = [name for name, number in (family.names or {}).items() if abs(number - value) <= within]
    round_value = _round(value, within)
    is_round = bool(names) or round_value is not None
    value = value if round_value is None else round_value
    text = f"{_text(value, accuracy)} to {accuracy:.0e}"
    if 0 <= value < within and not family.may_vanish:
        return None
    if 0 <= value < within:
        text = f"0, or one below {within:.0e}"
    if names:
        text = f"{value:.6g} ({' = '.join(names)}) to {accuracy:.0e}"
    return FittedNumber(value, accuracy, remaining, is_round, family.says.format(value=text))


def _round(value: float, within: float) -> float | None:
    """The number of at most two digits that is nearest, if it is near enough."""
    if within > abs(value) / 10:
        return 0.0 if abs(value) <= within else None
    for digits in (1, 2):
        nearest = float(f"{value:.{digits - 1}e}")
        if abs(nearest - value) <= within:
            return nearest
    return None


def _text(value: float, accuracy: float) -> str:
    """The number with the digits that the record fixes.

    >>> _text(1.23456789e-6, 3e-9), _text(0.125, 1e-12)
    ('1.235e-06', '0.125')
    """
    if not value or not accuracy or not math.isfinite(accuracy):
        return f"{value:g}"
    return f"{value:.{min(max(math.ceil(math.log10(abs(value) / accuracy)), 1) + 1, 12)}g}"
