"""Writing GGUF files: the header, then the tensors one after another. `gguf` reads them and states the format.

The values of keys get the types that llama.cpp's converter uses: text, bool, uint32 for int, float32 for float, and
arrays. (ggml-org/ggml, docs/gguf.md)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxllm.pretrained.gguf import ARRAY, BOOL, DEFAULT_ALIGNMENT, MAGIC, SCALARS, STRING, TYPES, UINT32, VERSIONS
from jaxllm.pretrained.gguf_encode import stored_bytes
from jaxllm.utils.files import replacing

FLOAT32 = 6
TYPE_NUMBERS = {name: number for number, (name, *_) in TYPES.items()}


class TensorToWrite(NamedTuple):
    """A tensor of a header that is written."""

    kind: str  # a name of `gguf.TYPES`
    shape: tuple[int, ...]  # the last index varies fastest


def write_file(
    path: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, TensorToWrite],
    content: Callable[[str], Iterable[np.ndarray]],
    check: Callable[[Path], None],
) -> None:
    """Write a GGUF file, which appears when it is complete; an older one is then replaced.

    `content` returns the bytes of a tensor in parts, uint8 each; they are written before the next part is made.
    `check` gets the path of the finished file before it has its name. If it raises an exception, or if `content` does,
    no file is left and an older one stays. Raises OSError if the file cannot be written.
    """
    with replacing(path) as file:
        file.write(header(metadata, tensors))
        for name, tensor in tensors.items():
            _pad(file)
            start = file.tell()
            for part in content(name):
                file.write(memoryview(np.ascontiguousarray(part)))
            _check_size(name, file.tell() - start, stored_bytes(tensor.shape, tensor.kind))
        _pad(file)  # llama.cpp's own files end so
        file.flush()
        check(Path(file.name))


def header(metadata: Mapping[str, Any], tensors: Mapping[str, TensorToWrite]) -> bytes:
    """The header of version 3: counts, keys with values, and each tensor with its place; without the padding after it.

    Values are str, bool, int, float, NumPy arrays [N] of numbers, or lists of str.
    """
    parts = [MAGIC, _integer(VERSIONS[-1], 4), _integer(len(tensors), 8), _integer(len(metadata), 8)]
    for key, value in metadata.items():
        kind, raw = _value(value)
        parts += [_string(key), _integer(kind, 4), raw]
    start = 0
    for name, (type_name, shape) in tensors.items():
        sizes = [_integer(n, 8) for n in reversed(shape)]
        parts += [_string(name), _integer(len(shape), 4), *sizes, _integer(TYPE_NUMBERS[type_name], 4)]
        parts.append(_integer(start, 8))
        start = _aligned(start + stored_bytes(shape, type_name))
    return b"".join(parts)


def _value(value: Any) -> tuple[int, bytes]:
    """The type of a value, and its bytes."""
    if isinstance(value, str):
        return STRING, _string(value)
    if isinstance(value, bool):
        return BOOL, _integer(value, 1)
    if isinstance(value, int):
        return UINT32, _integer(value, 4)
    if isinstance(value, float):
        return FLOAT32, np.array(value, "<f4").tobytes()
    if isinstance(value, np.ndarray):
        kind = next(number for number, scalar in SCALARS.items() if np.dtype(scalar) == value.dtype)
        return ARRAY, _integer(kind, 4) + _integer(value.size, 8) + value.tobytes()
    return ARRAY, _integer(STRING, 4) + _strings(value)


def _strings(texts: Sequence[str]) -> bytes:
    return _integer(len(texts), 8) + b"".join(map(_string, texts))


def _string(text: str) -> bytes:
    raw = text.encode()
    return _integer(len(raw), 8) + raw


def _integer(n: int, size: int) -> bytes:
    return int(n).to_bytes(size, "little")


def _aligned(n: int) -> int:
    return -(-n // DEFAULT_ALIGNMENT) * DEFAULT_ALIGNMENT


def _pad(file: BinaryIO) -> None:
    """Write zeros up to the next multiple of the alignment."""
    file.write(bytes(-file.tell() % DEFAULT_ALIGNMENT))


def _check_size(name: str, written: int, wanted: int) -> None:
    if written != wanted:
        raise ValueError(f"the content of {name} has {written:,} bytes, not {wanted:,}")
