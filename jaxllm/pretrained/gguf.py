"""GGUF files, the weights of llama.cpp: counts, keys with typed values, names and places of tensors, then their bytes.

The header comes from an untrusted file. Each count is compared with the bytes that remain before anything is allocated,
so time and memory are bounded by the size of the header, which is at most MOST_HEADER. (ggml-org/ggml, docs/gguf.md)
"""

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import msgspec
import numpy as np

from jaxllm.pretrained.tensor_file import StoredTensor, addressable, damaged, map_tensor
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import open_file

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_HEADER = 2**26  # bytes; a tokenizer of 260,000 tokens and 500,000 merges takes about 16 MB
MOST_KEY, MOST_NAME, MOST_DIMENSIONS, MOST_NESTED = 2**16 - 1, 64, 4, 4  # the specification has the first three
ALIGNMENT, DEFAULT_ALIGNMENT, MOST_ALIGNMENT = "general.alignment", 32, 2**16
# The fewest bytes of a key with its value (length, type, value) and of a tensor (two lengths, type, offset).
LEAST_PAIR, LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8

# Types of the values of keys. (ggml-org/ggml, docs/gguf.md)
SCALARS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
LEAST = {kind: np.dtype(scalar).itemsize for kind, scalar in SCALARS.items()} | {STRING: 8, ARRAY: 12}  # in bytes

# Types of tensors: name, numbers in a block, bytes of a block, and the dtype if a block is one number.
# (ggml-org/ggml, docs/gguf.md and src/ggml-common.h)
TYPES: dict[int, tuple[str, int, int, Any]] = {
    0: ("F32", 1, 4, "<f4"), 1: ("F16", 1, 2, "<f2"), 2: ("Q4_0", 32, 18, None), 3: ("Q4_1", 32, 20, None),
    6: ("Q5_0", 32, 22, None), 7: ("Q5_1", 32, 24, None), 8: ("Q8_0", 32, 34, None), 9: ("Q8_1", 32, 36, None),
    10: ("Q2_K", 256, 84, None), 11: ("Q3_K", 256, 110, None), 12: ("Q4_K", 256, 144, None),
    13: ("Q5_K", 256, 176, None), 14: ("Q6_K", 256, 210, None), 15: ("Q8_K", 256, 292, None),
    24: ("I8", 1, 1, "i1"), 25: ("I16", 1, 2, "<i2"), 26: ("I32", 1, 4, "<i4"), 27: ("I64", 1, 8, "<i8"),
    28: ("F64", 1, 8, "<f8"), 30: ("BF16", 1, 2, ml_dtypes.bfloat16),
}  # fmt: skip
BY_NAME = {name: (block, size, dtype) for name, block, size, dtype in TYPES.values()}


class GGUFHeader(msgspec.Struct, frozen=True):
    """The content of a file. Values are bool, int, float, str, arrays [N] of numbers, or lists of strings or arrays."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]


def read_header(path: str | Path) -> GGUFHeader:
    """The header of a little-endian file of version 2 or 3, with the place of each tensor checked.

    The tensors are not read. Raises InputError if the file cannot be read or breaks a rule of the format.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            return _Reader(file, size, path).header()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None


def read_tensor(path: str | Path, tensor: StoredTensor) -> np.ndarray:
    """A tensor of the header as a read-only array, mapped from the file.

    The array has the tensor's shape and dtype (BF16 is bfloat16 of ml_dtypes). A quantised tensor is a uint8 array with
    the blocks of a row in the last dimension: Q8_0 of shape [R, 64] is [R, 68]. Raises InputError if the file cannot be
    read or has become shorter.
    """
    block, size, dtype = BY_NAME[tensor.dtype]
    if dtype is not None:
        return map_tensor(path, tensor, dtype, tensor.shape)
    *rows, columns = tensor.shape
    return map_tensor(path, tensor, np.uint8, (*rows, columns // block * size))


class _Reader:
    """Reads the header in order, never beyond the end of the file or MOST_HEADER bytes."""

    def __init__(self, file: BinaryIO, size: int, path: str | Path) -> None:
        self.file, self.size, self.path = file, size, path
        self.left = min(size, MOST_HEADER)

    def damaged(self, what: str) -> InputError:
        return damaged(self.path, "GGUF", what)

    def header(self) -> GGUFHeader:
        version = self.version()
        n_tensors = self.integer(8, "the number of tensors")
        metadata, alignment = self.metadata()
        self.check_count(n_tensors, LEAST_TENSOR, "tensors")
        described = dict(self.tensor() for _ in range(n_tensors))
        if len(described) != n_tensors:
            raise self.damaged(f"only {len(described):,} of its {n_tensors:,} tensors have different names")
        return GGUFHeader(version, metadata, self.located(described, alignment))

    def version(self) -> int:
        if self.take(4, "its first word") != MAGIC:
            raise self.damaged("it does not begin with GGUF")
        version = self.integer(4, "the version")
        if version not in VERSIONS:
            raise InputError(
                f"{self.path} is of version {version:,}, but this jaxllm reads GGUF of version 2 or 3, little-endian; "
                "convert it first."
            )
        return version

    def metadata(self) -> tuple[dict[str, Any], int]:
        """The number of keys, then all keys with their values; and the alignment of the data."""
        metadata: dict[str, Any] = {}
        alignment = DEFAULT_ALIGNMENT
        for _ in range(self.count(LEAST_PAIR, "keys")):
            key = self.string(MOST_KEY, "a key")
            if key in metadata or not key:
                raise self.damaged(f"the key {shown(key)} is empty or occurs twice")
            kind = self.integer(4, f"the type of {shown(key)}")
            metadata[key] = self.value(kind, f"the value of {shown(key)}")
            if key == ALIGNMENT:
                alignment = self.alignment(kind, metadata[key])
        return metadata, alignment

    def alignment(self, kind: int, value: Any) -> int:
        if kind != UINT32 or not 8 <= value <= MOST_ALIGNMENT or value & (value - 1):
            raise self.damaged(
                f"{ALIGNMENT} is {shown(value)}, but must be a power of two from 8 to {MOST_ALIGNMENT:,}, a uint32"
            )
        return int(value)

    def take(self, n: int, what: str) -> bytes:
        """The next n bytes."""
        if n > self.left:
            limit = f"the {MOST_HEADER:,} bytes of a header" if self.size > MOST_HEADER else "the end of the file"
            raise self.damaged(f"{what} has {n:,} bytes and goes beyond {limit}")
        content = self.file.read(n)
        if len(content) < n:
            raise self.damaged("it was truncated while it was read")
        self.left -= n
        return content

    def integer(self, n: int, what: str) -> int:
        return int.from_bytes(self.take(n, what), "little")

    def check_count(self, n: int, least: int, what: str) -> None:
        """Raises InputError if n items of at least `least` bytes each do not fit into what remains."""
        if n * least > self.left:
            raise self.damaged(f"it declares {n:,} {what}, more than fit into the {self.left:,} bytes that follow")

    def count(self, least: int, what: str) -> int:
        """The next number of items, checked as in `check_count`."""
        n = self.integer(8, what)
        self.check_count(n, least, what)
        return n

    def string(self, most: int, what: str) -> str:
        """The next text, of at most that many bytes."""
        length = self.integer(8, what)
        if length > most:
            raise self.damaged(f"{what} has {length:,} bytes, more than {most:,}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None

    def value(self, kind: int, what: str, depth: int = 0) -> Any:
        """The next value of that type; `depth` counts the arrays around it."""
        if kind in SCALARS:
            return self.numbers(kind, 1, what)[0].item()
        if kind == STRING:
            return self.string(MOST_HEADER, what)
        if kind != ARRAY:
            raise self.damaged(f"{what} is of the unknown type {kind:,}")
        if depth == MOST_NESTED:
            raise self.damaged(f"{what} is nested more than {MOST_NESTED} deep")
        kind = self.integer(4, what)
        if kind not in LEAST:
            raise self.damaged(f"{what} has elements of the unknown type {kind:,}")
        n = self.count(LEAST[kind], f"elements of {what}")
        if kind in SCALARS:
            return self.numbers(kind, n, what)
        return [self.value(kind, what, depth + 1) for _ in range(n)]

    def numbers(self, kind: int, n: int, what: str) -> np.ndarray:
        """The next n numbers of that type, as a read-only array [n]."""
        raw = self.take(n * LEAST[kind], what)
        if kind == BOOL and not set(raw) <= {0, 1}:
            raise self.damaged(f"{what} is neither true nor false")
        return np.frombuffer(raw, SCALARS[kind])

    def tensor(self) -> tuple[str, StoredTensor]:
        """The next tensor's name, and its place counted from the beginning of the data."""
        name = self.string(MOST_NAME, "a tensor's name")
        what = f"the tensor {shown(name)}"
        dimensions = self.integer(4, what)
        if dimensions > MOST_DIMENSIONS:
            raise self.damaged(f"{what} has {dimensions:,} dimensions, more than {MOST_DIMENSIONS}")
        fastest_first = [self.integer(8, what) for _ in range(dimensions)]
        kind, start = self.integer(4, what), self.integer(8, what)
        if kind not in TYPES:
            raise InputError(
                f"{what} of {self.path} is of type {kind:,}, but this jaxllm reads {', '.join(BY_NAME)}; convert it "
                "first."
            )
        dtype, block, each, _ = TYPES[kind]
        row = fastest_first[0] if fastest_first else 1
        if row % block or not addressable(fastest_first, each):
            raise self.damaged(f"{what} of {dtype} has rows of {row:,}, not a multiple of {block}, or is too large")
        stop = start + math.prod(fastest_first) // block * each
        return name, StoredTensor(dtype, tuple(reversed(fastest_first)), start, stop)

    def located(self, tensors: dict[str, StoredTensor], alignment: int) -> dict[str, StoredTensor]:
        """The tensors in the order of the header, their places counted from the beginning of the file."""
        data = -(-self.file.tell() // alignment) * alignment
        end = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
            if tensor.start % alignment or tensor.start < end:
                raise self.damaged(
                    f"the tensor {shown(name)} begins at {tensor.start:,}, which is not a multiple of {alignment} or "
                    "is within another tensor"
                )
            if data + tensor.stop > self.size:
                raise self.damaged(
                    f"the tensor {shown(name)} ends at byte {data + tensor.stop:,}, but the file has {self.size:,}"
                )
            end = tensor.stop
        return {
            name: msgspec.structs.replace(tensor, start=data + tensor.start, stop=data + tensor.stop)
            for name, tensor in tensors.items()
        }
