"""safetensors files: the length of the header, the header in JSON, then the bytes of the tensors without a gap.

The header comes from an untrusted file. It may have at most MOST_HEADER bytes, no name twice and no unknown field, and
reading it takes at most 32 times its size in memory. (huggingface/safetensors, README, "Format")
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import ml_dtypes
import msgspec
import numpy as np
from msgspec import Meta

from jaxllm.pretrained.tensor_file import StoredTensor, addressable, damaged, map_tensor
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import open_file, replacing

MOST_HEADER = 2**23  # bytes; enough for 70,000 tensors
MOST_DIMENSIONS = 8
METADATA = "__metadata__"
DTYPES: dict[str, Any] = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": ml_dtypes.bfloat16,
    "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip
Size = Annotated[int, Meta(ge=0)]


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A tensor as the header describes it."""

    dtype: str
    shape: Annotated[list[Size], Meta(max_length=MOST_DIMENSIONS)]
    data_offsets: tuple[Size, Size]  # in bytes from the end of the header


class SafetensorsHeader(msgspec.Struct, frozen=True):
    """The content of a file: tensors by name in the order of their bytes, and the metadata."""

    tensors: dict[str, StoredTensor]
    metadata: dict[str, str]


def read_header(path: str | Path) -> SafetensorsHeader:
    """The header of a file, with the place of each tensor checked; the tensors are not read.

    Raises InputError if the file cannot be read or breaks a rule of the format.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            length = _checked_length(file.read(8), size, path)
            raw = file.read(length)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    try:
        entries = _decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise damaged(path, "safetensors", f"its header is malformed, {printable(str(error))}") from None
    metadata = entries.pop(METADATA, {})
    return SafetensorsHeader(_locate(entries, 8 + length, size, path), metadata)


def read_tensor(path: str | Path, tensor: StoredTensor) -> np.ndarray:
    """A tensor of the header as a read-only array of its shape and dtype, mapped from the file.

    BF16, F8_E4M3 and F8_E5M2 have the dtypes of ml_dtypes, which JAX accepts. Raises InputError if the file cannot be
    read or has become shorter.
    """
    return map_tensor(path, tensor, DTYPES[tensor.dtype], tensor.shape)


def _checked_length(first: bytes, size: int, path: str | Path) -> int:
    length = int.from_bytes(first, "little")
    if length > size - 8:
        raise damaged(path, "safetensors", f"a header of {length:,} bytes does not fit into a file of {size:,}")
    if length > MOST_HEADER:
        raise damaged(path, "safetensors", f"its header has {length:,} bytes, more than the {MOST_HEADER:,} allowed")
    return length


def _decode(raw: bytes) -> dict[str, Any]:
    """Name to Entry, and METADATA to a dict of strings. Raises errors of msgspec, ValueError and RecursionError."""
    if raw[:1] != b"{":
        raise ValueError("it does not begin with {")
    # Decoding by type stops at the first value of another form, before that value takes memory.
    content = msgspec.json.decode(raw, type=dict[str, dict[str, str | list[Size]]])
    json.loads(raw, object_pairs_hook=_refuse_twice)  # msgspec does not report a repeated name
    return {
        name: msgspec.convert(value, dict[str, str] if name == METADATA else Entry) for name, value in content.items()
    }


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"{shown(name)} occurs twice")
        seen.add(name)


def _locate(entries: dict[str, Entry], data: int, size: int, path: str | Path) -> dict[str, StoredTensor]:
    """The tensors in the order of their bytes, which must fill the file from byte `data` to its end, `size`."""
    tensors, end = {}, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        if entry.dtype not in DTYPES:
            raise InputError(
                f"tensor {shown(name)} of {path} has the dtype {shown(entry.dtype)}, but this jaxllm reads "
                f"{', '.join(DTYPES)}; convert it first."
            )
        each = np.dtype(DTYPES[entry.dtype]).itemsize
        if not addressable(entry.shape, each) or stop - start != math.prod(entry.shape) * each:
            what = f"tensor {shown(name)} of shape {shown(entry.shape)} and dtype {entry.dtype}"
            raise damaged(path, "safetensors", f"{what} has {stop - start:,} bytes")
        if start != end:
            raise damaged(
                path, "safetensors", f"tensor {shown(name)} begins at {start:,}, but the one before ends at {end:,}"
            )
        tensors[name] = StoredTensor(entry.dtype, tuple(entry.shape), data + start, data + stop)
        end = stop
    if data + end != size:
        raise damaged(path, "safetensors", f"its tensors end at byte {data + end:,}, but it has {size:,}")
    return tensors


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write the tensors and the metadata to a safetensors file, which appears only when it is complete.

    The data begin at a multiple of 8 bytes, as in files that the safetensors library writes. Raises OSError if the file
    cannot be written; an older file then stays.
    """
    names = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {METADATA: dict(metadata)}
    end = 0
    for name, x in tensors.items():
        header[name] = {"dtype": names[x.dtype], "shape": list(x.shape), "data_offsets": [end, end + x.nbytes]}
        end += x.nbytes
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with replacing(Path(path)) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for x in tensors.values():
            file.write(np.ascontiguousarray(x).reshape(-1).view(np.uint8))
