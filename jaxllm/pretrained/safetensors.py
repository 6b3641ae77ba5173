"""safetensors: the length of a header, the header in JSON, then the tensors' bytes without a gap.

The Rust crate takes headers of up to 100 MB and checks that offsets leave no hole; the JSON it reads may be of any
form that fits. Here a header has at most 8 MiB, no name twice and no field of its own invention; the costliest, of
nothing but empty objects, takes thirty times its size in memory.
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

from jaxllm.pretrained.tensor_file import Tensor, addressable, damaged, map_tensor
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import open_file, replacing

MOST_HEADER = 2**23  # bytes; room for the names of 70,000 tensors
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
    data_offsets: tuple[Size, Size]  # from the end of the header


class Header(msgspec.Struct, frozen=True):
    """What a file holds, in the order of its bytes."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """The header of a file, each tensor's place checked; the tensors are not read.

    Raises InputError for a file that cannot be read or breaks a rule of the format
    (huggingface/safetensors, README, "Format").
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
        raise damaged(path, "safetensors", f"its header is not what it should be, {printable(str(error))}") from None
    metadata = entries.pop(METADATA, {})
    return Header(_placed(entries, 8 + length, size, path), metadata)


def read_tensor(path: str | Path, tensor: Tensor) -> np.ndarray:
    """One of the header's tensors, as a read-only array of its shape and dtype, mapped from the file.

    BF16 and the two F8 have the dtypes of ml_dtypes, which JAX takes. Raises InputError where the file has changed.
    """
    return map_tensor(path, tensor, DTYPES[tensor.dtype], tensor.shape)


def _checked_length(first: bytes, size: int, path: str | Path) -> int:
    length = int.from_bytes(first, "little")
    if length > size - 8:
        raise damaged(path, "safetensors", f"a header of {length:,} bytes does not fit into a file of {size:,}")
    if length > MOST_HEADER:
        raise damaged(
            path, "safetensors", f"its header has {length:,} bytes, more than the {MOST_HEADER:,} of any model"
        )
    return length


def _decode(raw: bytes) -> dict[str, Any]:
    """Name to Entry, and METADATA to a dict of strings. Raises errors of msgspec and ValueError."""
    if raw[:1] != b"{":
        raise ValueError("it does not begin with {")
    # What is of another form is refused where it stands, before it can take memory: first read by type.
    content = msgspec.json.decode(raw, type=dict[str, dict[str, str | list[Size]]])
    json.loads(raw, object_pairs_hook=_refuse_twice)  # only this one shows a name that is there twice
    return {
        name: msgspec.convert(value, dict[str, str] if name == METADATA else Entry) for name, value in content.items()
    }


def _refuse_twice(pairs: list[tuple[str, Any]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"{shown(name)} is there twice")
        seen.add(name)


def _placed(entries: dict[str, Entry], data: int, size: int, path: str | Path) -> dict[str, Tensor]:
    """The tensors in the order of their bytes, which must fill the file from `data` to its `size`."""
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
            raise damaged(path, "safetensors", f"tensor {shown(name)} begins at {start:,}, where {end:,} would follow")
        tensors[name] = Tensor(entry.dtype, tuple(entry.shape), data + start, data + stop)
        end = stop
    if data + end != size:
        raise damaged(path, "safetensors", f"its tensors end at byte {data + end:,}, but it has {size:,}")
    return tensors


def write_tensors(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file that `read_header` and the safetensors library read, aside and then by rename.

    The data begin at a multiple of 8 bytes, as the library's do. Raises OSError where it cannot be written; then there
    is none.
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
