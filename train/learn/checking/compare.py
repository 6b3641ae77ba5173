"""Whether a result is right, and where it first is not."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .trees import Place, named
from .wire import Odd, Typed

LEAST = 1e-12  # absolute: what rounding leaves where the right number is 0
RELATIVE = {"float64": 1e-9, "float32": 2e-4, "float16": 3e-2, "bfloat16": 1e-1}  # to the largest number of an array
KINDS = {"f": "float64", "i": "int64", "u": "int64", "b": "bool"}
NUMBER = bool | int | float | complex | np.generic


@dataclass(frozen=True)
class Mismatch:
    """The first difference of a result from the right one."""

    kind: str  # "type", "shape", "length", "dtype", "value"
    says: str  # what follows "your NAME", for all kinds but "value"
    place: Place = ()  # of the leaf
    index: tuple[int, ...] = ()  # within the leaf, of "value"
    mine: Any = None  # leaves
    right: Any = None


def difference(right: Any, mine: Any, place: Place = ()) -> Mismatch | None:
    """The first difference; None if there is none. Wrong types come before wrong values only where they lie earlier.

    Lists and tuples are one type. A result of the right values in another dtype is a difference of the kind "dtype".
    """
    if isinstance(right, dict):
        return _of_dicts(right, mine, place)
    if isinstance(right, list | tuple):
        return _of_sequences(right, mine, place)
    if isinstance(right, np.ndarray | np.generic | float | int) and not isinstance(right, bool):
        return _of_numbers(right, mine, place)
    if isinstance(mine, np.bool_ | np.ndarray) and np.ndim(mine) == 0 and isinstance(right, bool):
        mine = mine.item()
    if type(right) is not type(mine):
        return _wrong_type(right, mine, place)
    return None if right == mine else Mismatch("value", "", place, (), mine, right)


def _of_dicts(right: dict[Any, Any], mine: Any, place: Place) -> Mismatch | None:
    if not isinstance(mine, dict):
        return _wrong_type(right, mine, place)
    for name in [*right, *mine]:
        if name not in mine or name not in right:
            says = f"returns a dict{_at(place)} {'without' if name in right else 'with'} the key {name!r}"
            return Mismatch("type", says, place, mine=mine, right=right)
    found = (difference(right[name], mine[name], (*place, name)) for name in right)
    return next((one for one in found if one), None)


def _of_sequences(right: Any, mine: Any, place: Place) -> Mismatch | None:
    if not isinstance(mine, list | tuple):
        return _wrong_type(right, mine, place)
    found = (difference(a, b, (*place, i)) for i, (a, b) in enumerate(zip(right, mine, strict=False)))
    if first := next((one for one in found if one), None):
        return first
    if len(right) == len(mine):
        return None
    says = f"returns a list{_at(place)} of the length {len(mine):,}, not {len(right):,}"
    return Mismatch("length", says, place, mine=mine, right=right)


def _of_numbers(right: Any, mine: Any, place: Place) -> Mismatch | None:
    """Of arrays, and of single numbers, which may be Python's or arrays without axes."""
    if not isinstance(mine, np.ndarray | Typed | NUMBER) or (isinstance(mine, NUMBER) and np.ndim(right)):
        return _wrong_type(right, mine, place)
    array = np.asarray(mine.array if isinstance(mine, Typed) else mine)
    want = np.asarray(right)
    if array.shape != want.shape:
        says = f"returns an array{_at(place)} of the shape {array.shape}, not {want.shape}"
        return Mismatch("shape", says, place, mine=mine, right=right)
    dtype = mine.dtype if isinstance(mine, Typed) else array.dtype.name
    wrong = ~close(want, array, dtype)
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        return Mismatch("value", "", place, index, mine, right)
    if KINDS.get(array.dtype.kind) != KINDS[want.dtype.kind] or (want.dtype.kind == "f" and dtype != "float64"):
        says = f"returns the right numbers{_at(place)} as {dtype}, not {KINDS[want.dtype.kind]}"
        return Mismatch("dtype", says, place, mine=mine, right=right)
    return None


def close(right: Any, mine: Any, dtype: str = "float64", scale: float | None = None) -> Any:
    """Where numbers are equal: exactly for integers, else to rounding at the size of the largest right number."""
    if np.asarray(right).dtype.kind != "f":
        return np.asarray(right == mine)
    finite = np.abs(right[np.isfinite(right)])
    largest = scale if scale is not None else finite.max() if finite.size else 0.0
    with np.errstate(all="ignore"):
        near = np.abs(right - mine) <= RELATIVE.get(dtype, RELATIVE["float64"]) * largest + LEAST
    return near | (right == mine) | (np.isnan(right) & np.isnan(mine))


def _wrong_type(right: Any, mine: Any, place: Place) -> Mismatch:
    says = f"returns {described(mine)}{_at(place)}, not {described(right)}"
    return Mismatch("type", says, place, mine=mine, right=right)


def _at(place: Place) -> str:
    return f" at {named(place)}" if place else ""


def described(value: Any) -> str:
    """The type of a value, as the object of a sentence.

    >>> described([1]), described(np.zeros((2, 3)))
    ('a list', 'an array')
    """
    if isinstance(value, Odd):
        return value.what
    if value is None:
        return "None"
    if isinstance(value, np.ndarray | Typed):
        return "an array"
    if isinstance(value, np.generic):
        return "a number"
    return {
        str: "a text",
        int: "an integer",
        float: "a number",
        bool: "True or False",
        complex: "a complex number",
    }.get(type(value), f"a {type(value).__name__}")
