"""Tensors of GGUF's quantised types, decoded to float32 when they are loaded.

A block holds integers q of a few bits in groups. Each group has a scale and, in some types, an offset; its numbers are
scale * q + offset. One function per type unpacks the fields of a block, and `_scale` computes the numbers.

The layouts and the names of the fields are those of ggml-org/ggml, src/ggml-common.h; the order of the bits is that of
the dequantize_row functions in src/ggml-quants.c.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.pretrained.gguf import BY_NAME, read_tensor
from jaxllm.pretrained.tensor_file import StoredTensor
from jaxllm.utils.errors import InputError, shown

AT_ONCE = 2**16  # numbers; intermediates of that many stay in the processor's cache
FLOATS = ("F32", "F16", "BF16", "F64")

Groups = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Of N blocks: integers q in the order of the tensor; scales [N, groups]; offsets [N, groups], or None."""

# The fields of a block in order: name, type and, for several values, the shape that `_unpack` expects.
FIELDS: dict[str, Any] = {
    "Q4_0": [("d", "<f2"), ("qs", "u1", (1, 16))],
    "Q4_1": [("d", "<f2"), ("m", "<f2"), ("qs", "u1", (1, 16))],
    "Q5_0": [("d", "<f2"), ("qh", "u1", 4), ("qs", "u1", (1, 16))],
    "Q5_1": [("d", "<f2"), ("m", "<f2"), ("qh", "u1", 4), ("qs", "u1", (1, 16))],
    "Q8_0": [("d", "<f2"), ("qs", "i1", 32)],
    "Q2_K": [("scales", "u1", 16), ("qs", "u1", (2, 32)), ("d", "<f2"), ("dmin", "<f2")],
    "Q3_K": [("hmask", "u1", (1, 32)), ("qs", "u1", (2, 32)), ("scales", "u1", (1, 8)),
             ("scales_high", "u1", (1, 4)), ("d", "<f2")],
    "Q4_K": [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (3, 4)), ("qs", "u1", (4, 32))],
    "Q5_K": [("d", "<f2"), ("dmin", "<f2"), ("scales", "u1", (3, 4)), ("qh", "u1", (1, 32)),
             ("qs", "u1", (4, 32))],
    "Q6_K": [("ql", "u1", (2, 64)), ("qh", "u1", (2, 32)), ("scales", "i1", 16), ("d", "<f2")],
}  # fmt: skip
LAYOUTS = {kind: np.dtype(fields) for kind, fields in FIELDS.items()}


def read_float(path: str | Path, tensor: StoredTensor) -> np.ndarray:
    """A tensor of `gguf.read_header` as a new float32 array of its shape.

    F64 is rounded; numbers beyond float32 become infinite. Raises InputError if the type is not in FLOATS or LAYOUTS,
    or if the file cannot be read or has become shorter.
    """
    if tensor.dtype not in FLOATS:
        _check_type(tensor.dtype, f"a tensor of {path}")
        return dequantise(read_tensor(path, tensor), tensor.dtype, tensor.shape)
    with np.errstate(all="ignore"):
        return np.array(read_tensor(path, tensor), np.float32)


def dequantise(blocks: np.ndarray, kind: str, shape: Sequence[int]) -> np.ndarray:
    """The numbers in uint8 blocks of a type such as "Q4_K": float32 [*shape]. A row is a sequence of whole blocks.

    The result has the bits that ggml's dequantize_row functions give when the compiler does not fuse * and +. Infinite
    and NaN scales follow IEEE arithmetic. Raises InputError for another type, and for blocks that do not fit the shape.
    """
    _check_type(kind, "a tensor")
    block, size, _ = BY_NAME[kind]
    n = math.prod(shape)
    if (shape[-1] if shape else 1) % block or blocks.dtype != np.uint8 or blocks.size != n // block * size:
        raise InputError(
            f"{kind} needs rows of a multiple of {block} numbers and {size} bytes of uint8 for each {block}, but got "
            f"{blocks.size:,} of {blocks.dtype} for shape {shown(list(shape))}; pass what read_tensor returns."
        )
    fields = np.ascontiguousarray(blocks).reshape(-1).view(LAYOUTS[kind])
    numbers = np.empty((n // block, block), np.float32)
    step = AT_ONCE // block
    with np.errstate(all="ignore"):
        for i in range(0, len(fields), step):
            _scale(DECODERS[kind](fields[i : i + step]), numbers[i : i + step])
    return numbers.reshape(shape)


def _check_type(kind: str, what: str) -> None:
    if kind not in LAYOUTS:
        raise InputError(
            f"{what} is of type {shown(kind)}, but this jaxllm reads {', '.join((*FLOATS, *LAYOUTS))}; "
            "convert the file to one of these with llama.cpp's llama-quantize."
        )


def _scale(groups: Groups, numbers: np.ndarray) -> None:
    """Write scale * q + offset into `numbers`."""
    q, scales, offsets = groups
    grouped = numbers.reshape(*scales.shape, -1)
    np.multiply(q.reshape(grouped.shape), scales[:, :, None], out=grouped)
    if offsets is not None:
        grouped += offsets[:, :, None]


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes [N, G, B] as integers [N, G, 8 / bits, B]: the lowest bits of all B bytes first, then the next ones."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return packed[:, :, None] >> shifts & np.uint8(2**bits - 1)


def _signed(q: np.ndarray, zero: int) -> np.ndarray:
    """uint8 as int8, minus the integer that stands for 0."""
    return q.view(np.int8) - np.int8(zero)


def _float32(halves: np.ndarray) -> np.ndarray:
    """float16 [N] as float32 [N, 1]."""
    return halves.astype(np.float32)[:, None]


def _q4_0(x: np.ndarray) -> Groups:
    return _signed(_unpack(x["qs"], 4), 8), _float32(x["d"]), None


def _q4_1(x: np.ndarray) -> Groups:
    return _unpack(x["qs"], 4), _float32(x["d"]), _float32(x["m"])


def _five_bits(x: np.ndarray) -> np.ndarray:
    """The low four bits are in qs; the fifth of integer i is bit i of qh, one little-endian number of four bytes."""
    fifth = np.unpackbits(x["qh"], axis=1, bitorder="little")
    return _unpack(x["qs"], 4).reshape(-1, 32) | fifth << 4


def _q5_0(x: np.ndarray) -> Groups:
    return _signed(_five_bits(x), 16), _float32(x["d"]), None


def _q5_1(x: np.ndarray) -> Groups:
    return _five_bits(x), _float32(x["d"]), _float32(x["m"])


def _q8_0(x: np.ndarray) -> Groups:
    return x["qs"], _float32(x["d"]), None


def _q2_k(x: np.ndarray) -> Groups:
    """16 groups of 16; the low four bits of a byte of scales are the scale, the high four the minimum."""
    scales, mins = x["scales"] & 15, x["scales"] >> 4
    return _unpack(x["qs"], 2), _float32(x["d"]) * scales, -_float32(x["dmin"]) * mins


def _q3_k(x: np.ndarray) -> Groups:
    """16 groups of 16; the third bit of q is in hmask, and the high two bits of each scale in scales_high."""
    low = _unpack(x["qs"], 2)
    q = low | _unpack(x["hmask"], 1).reshape(low.shape) << 2
    scales = _unpack(x["scales"], 4).reshape(-1, 16) | _unpack(x["scales_high"], 2).reshape(-1, 16) << 4
    return _signed(q, 4), _float32(x["d"]) * _signed(scales, 32), None


def _six_bit_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8 scales and 8 minima of 6 bits, each uint8 [N, 8].

    The first four of each are the low 6 bits of a byte. The last four have their high 2 bits in those bytes, and their
    low 4 bits in the last 4 bytes.
    """
    scales, mins, last = x["scales"][:, 0], x["scales"][:, 1], x["scales"][:, 2]
    return (
        np.concatenate([scales & 63, last & 15 | scales >> 6 << 4], axis=1),
        np.concatenate([mins & 63, last >> 4 | mins >> 6 << 4], axis=1),
    )


def _q4_k(x: np.ndarray) -> Groups:
    scales, mins = _six_bit_scales(x)
    return _unpack(x["qs"], 4), _float32(x["d"]) * scales, -_float32(x["dmin"]) * mins


def _q5_k(x: np.ndarray) -> Groups:
    """As Q4_K; the fifth bits of group i are bit i of the bytes of qh."""
    _, scales, offsets = _q4_k(x)
    low = _unpack(x["qs"], 4)
    return low | _unpack(x["qh"], 1).reshape(low.shape) << 4, scales, offsets


def _q6_k(x: np.ndarray) -> Groups:
    high = _unpack(x["qh"], 2)
    q = _unpack(x["ql"], 4).reshape(high.shape) | high << 4
    return _signed(q, 32), _float32(x["d"]) * x["scales"], None


DECODERS: dict[str, Callable[[np.ndarray], Groups]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0,
    "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
