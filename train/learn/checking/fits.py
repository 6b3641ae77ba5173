"""Results that are a multiple of the right ones, differ by a constant, or are right to few digits only."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from .compare import RELATIVE
from .diagnosis import Diagnosis, Pair

POWERS = (Fraction(-2), Fraction(-1), Fraction(-1, 2), Fraction(1, 2), Fraction(1), Fraction(2))
WHY_SCALE = "Every number is off by the same factor."


def fitted(pairs: Sequence[Pair]) -> Diagnosis | None:
    """The scale, offset, or both, that explains the arrays of all cases."""
    if any(pair.mine.shape != pair.right.shape or not _finite(pair) for pair in pairs):
        return None
    found = (_zero(pairs), _scaled(pairs), _offset(pairs), _line(pairs), _rounded(pairs))
    return next((one for one in found if one), None)


def _finite(pair: Pair) -> bool:
    kinds = pair.right.dtype.kind + pair.mine.dtype.kind
    return all(kind in "fiu" for kind in kinds) and bool(np.isfinite(pair.right).all() and np.isfinite(pair.mine).all())


def _zero(pairs: Sequence[Pair]) -> Diagnosis | None:
    if any(pair.mine.any() for pair in pairs):
        return None
    return Diagnosis(("zero",), "is zero everywhere", "Nothing that was computed reaches the result.")


def _scaled(pairs: Sequence[Pair]) -> Diagnosis | None:
    """One factor for all cases, or a power of a length or of an integer argument of each case."""
    telling = [pair for pair in pairs if pair.right.any()]
    if not telling:
        return None
    factors = [_factor(pair) for pair in telling]
    if not all(pair.equal(pair.right * factor) for pair, factor in zip(telling, factors, strict=True)):
        return None
    if np.allclose(factors, factors[0], rtol=1e-7) and _enough(telling, 1):
        says = "has the wrong sign" if np.isclose(factors[0], -1) else f"is {factors[0]:.6g} times the right one"
        return Diagnosis(("scale",), says, WHY_SCALE, "Look for a factor that is missing, or that is there twice.")
    for name, lengths in _lengths(telling).items():
        for power in POWERS:
            if len(set(lengths)) > 1 and np.allclose(
                factors, np.power(np.array(lengths, float), float(power)), rtol=1e-7
            ):
                says = f"is {_power(name, power)} times the right one"
                return Diagnosis(("scale",), says, WHY_SCALE, f"Look for where {name} should, or should not, divide.")
    return None


def _factor(pair: Pair) -> float:
    right, mine = pair.right.ravel().astype(float), pair.mine.ravel().astype(float)
    return float(right @ mine / (right @ right))


def _enough(pairs: Sequence[Pair], parameters: int) -> bool:
    """Whether there are more different numbers than a line has parameters."""
    numbers = np.concatenate([pair.right.ravel().astype(float) for pair in pairs])
    return len(np.unique(np.round(numbers, 9))) > parameters


def _lengths(pairs: Sequence[Pair]) -> dict[str, list[float]]:
    """What a factor may be a power of: lengths of axes of arguments, their sizes, and integers, for each case."""
    found: dict[str, list[float]] = {}
    for pair in pairs:
        for name, length in _lengths_of(pair):
            found.setdefault(name, []).append(length)
    return {name: lengths for name, lengths in found.items() if len(lengths) == len(pairs)}


def _lengths_of(pair: Pair) -> Iterator[tuple[str, float]]:
    for name, argument in pair.case.arguments.items():
        if isinstance(argument, np.ndarray):
            for axis in range(-argument.ndim, 0):
                which = "the last axis" if axis == -1 else f"axis {axis}"
                yield f"the length of {which} of {name}", argument.shape[axis]
            yield f"the number of elements of {name}", argument.size
        elif isinstance(argument, int | float) and not isinstance(argument, bool) and argument > 0:
            yield name, argument


def _power(name: str, power: Fraction) -> str:
    """A power of a length in words.

    >>> _power("n_heads", Fraction(-1, 2))
    '1/sqrt(n_heads)'
    """
    base = f"sqrt({name})" if power.denominator == 2 else name if abs(power) == 1 else f"({name})^2"
    return f"1/{base}" if power < 0 else base


def _offset(pairs: Sequence[Pair]) -> Diagnosis | None:
    """The same number added everywhere, in all cases."""
    offset = float(np.mean(pairs[0].mine.astype(float) - pairs[0].right))
    if not _enough(pairs, 1) or not all(pair.equal(pair.right + offset) for pair in pairs):
        return None
    says = f"is {abs(offset):.6g} too {'large' if offset > 0 else 'small'} everywhere"
    return Diagnosis(("offset",), says, "Every number is off by the same amount.", "Look at what is added last.")


def _line(pairs: Sequence[Pair]) -> Diagnosis | None:
    """A factor and an offset, the same in all cases."""
    right = np.concatenate([pair.right.ravel().astype(float) for pair in pairs])
    mine = np.concatenate([pair.mine.ravel().astype(float) for pair in pairs])
    if not _enough(pairs, 3):
        return None
    (a, b), *_ = np.linalg.lstsq(np.stack([right, np.ones_like(right)], 1), mine, rcond=None)
    if not a or not all(pair.equal(a * pair.right + b) for pair in pairs):
        return None
    says = f"is {a:.6g} times the right one, {'plus' if b > 0 else 'minus'} {abs(b):.6g}"
    return Diagnosis(("line",), says, "Every number lies on one line with the right one.")


def _rounded(pairs: Sequence[Pair]) -> Diagnosis | None:
    """Right to the digits of a smaller type."""
    for dtype in ("float32", "float16"):
        if all(Pair(pair.case, pair.right, pair.mine, dtype).is_right for pair in pairs):
            digits = {"float32": 5, "float16": 2}[dtype]
            return Diagnosis(
                ("rounded",), f"is right to about {digits} digits only, as if a part were computed in {dtype}",
                f"The arguments are float64, which has 15 digits. The bound is {RELATIVE['float64']:g} of the largest "
                "number.", f"Look for {dtype}, for a constant of few digits, and for an approximate formula.",
            )  # fmt: skip
    return None
