"""safetensors and GGUF files built by hand, for tests of their readers and as seeds for fuzzing."""

import json
import struct
from collections.abc import Sequence
from typing import Any

TYPES = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "bool": 7, "u8": 10, "i8": 11, "f8": 12}
FORMATS = {
    "u1": "B",
    "i1": "b",
    "u2": "H",
    "i2": "h",
    "u4": "I",
    "i4": "i",
    "f4": "f",
    "bool": "?",
    "u8": "Q",
    "i8": "q",
    "f8": "d",
}
STRING, ARRAY = 8, 9


def safetensors(header: Any, data: bytes = b"") -> bytes:
    """A file with that header, which is encoded in JSON unless it is bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(dtype: str, shape: Sequence[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def scalar(key: str, kind: str, value: float) -> bytes:
    return pair(key, TYPES[kind], struct.pack("<" + FORMATS[kind], value))


def array(kind: int, elements: Sequence[bytes]) -> bytes:
    """The value of an array of encoded elements."""
    return struct.pack("<IQ", kind, len(elements)) + b"".join(elements)


def tensor(name: str | bytes, dimensions: Sequence[int], kind: int, offset: int) -> bytes:
    """The description of a tensor; the first dimension varies fastest."""
    n = len(dimensions)
    return string(name) + struct.pack(f"<I{n}QIQ", n, *dimensions, kind, offset)


def gguf(
    pairs: Sequence[bytes] = (),
    tensors: Sequence[bytes] = (),
    data: bytes = b"",
    alignment: int = 32,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A file with its header padded to the alignment; `counts` replaces the numbers of tensors and keys."""
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    header = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + b"".join(pairs) + b"".join(tensors)
    return header + bytes(-len(header) % alignment) + data
