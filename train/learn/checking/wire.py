"""Values as JSON, for the process that runs the learner's functions. Nothing that is read here can run code."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_NUMBERS = 2**20  # of one result; the pieces' own have some thousands
DEEPEST = 20  # nested lists and dicts


@dataclass(frozen=True)
class Odd:
    """A value that no piece returns: an object, a class, an array of objects, one that is too large.

    `what` describes it as the object of a sentence, such as "a set".
    """

    what: str


@dataclass(frozen=True)
class Typed:
    """An array of a number type that NumPy has not, "bfloat16", as float64."""

    array: Any
    dtype: str


def encode(value: Any, plain: Callable[[Any], Any] = lambda leaf: leaf) -> Any:
    """The value as JSON: numbers, strings and None as they are, all else a list of a tag and its content.

    `plain` makes a leaf one of these; it is not called within what is too long to be sent.
    """
    try:
        return _tree(value, plain, 0)
    except RecursionError:
        return ["odd", "a value nested too deeply"]


def _tree(value: Any, plain: Callable[[Any], Any], depth: int) -> Any:
    if not isinstance(value, list | tuple | dict):
        return _leaf(plain(value))
    if depth == DEEPEST:
        raise RecursionError
    if len(value) >= MOST_NUMBERS:
        return ["odd", f"a value of the type {type(value).__name__}"]
    if isinstance(value, dict):
        return ["dict", [[encode(name), _tree(item, plain, depth + 1)] for name, item in value.items()]]
    return ["tuple" if isinstance(value, tuple) else "list", [_tree(item, plain, depth + 1) for item in value]]


def _leaf(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else ["int", hex(value)]
    if isinstance(value, float):
        return ["float", value.hex()]
    if isinstance(value, str):
        return ["text", base64.b64encode(value.encode("utf-8", "surrogatepass")).decode()]
    if isinstance(value, bytes):
        return ["bytes", base64.b64encode(value).decode()]
    if isinstance(value, np.ndarray | np.generic):
        return _array(np.asarray(value), "array" if isinstance(value, np.ndarray) else "number")
    if isinstance(value, Typed):
        return ["typed", encode(value.array), value.dtype]
    return ["odd", value.what if isinstance(value, Odd) else f"a value of the type {type(value).__name__}"]


def _array(value: Any, tag: str) -> Any:
    """An array of numbers or bools: its type, shape and bytes."""
    if value.dtype.kind not in "biufc":
        return ["odd", f"an array of {'objects' if value.dtype == object else value.dtype.name}"]
    if value.size > MOST_NUMBERS:
        return ["odd", f"an array of the shape {value.shape}"]
    data = base64.b64encode(value.astype(value.dtype.newbyteorder("<")).tobytes()).decode()
    return [tag, value.dtype.newbyteorder("<").str, list(value.shape), data]


def decode(given: Any) -> Any:
    """The value that `encode` was given."""
    if not isinstance(given, list):
        return given
    tag, *content = given
    return _DECODERS[tag](*content)


def _decode_array(dtype: str, shape: list[int], data: str) -> Any:
    array = np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
    return array.astype(array.dtype.newbyteorder("="))


_DECODERS: dict[str, Any] = {
    "int": lambda text: int(text, 16),
    "float": float.fromhex,
    "text": lambda data: base64.b64decode(data).decode("utf-8", "surrogatepass"),
    "bytes": base64.b64decode,
    "array": _decode_array,
    "number": lambda *content: _decode_array(*content)[()],
    "typed": lambda array, dtype: Typed(decode(array), dtype),
    "odd": Odd,
    "dict": lambda items: {decode(name): decode(item) for name, item in items},
    "tuple": lambda items: tuple(decode(item) for item in items),
    "list": lambda items: [decode(item) for item in items],
}
