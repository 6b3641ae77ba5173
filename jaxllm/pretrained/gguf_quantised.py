"""Numbers out of the blocks of GGUF's quantised types, as float32.

llama.cpp multiplies the blocks as they are; here, as in transformers, the weights become plain arrays once, when they
are loaded. A block holds whole numbers q of a few bits, in groups, and for each group a scale and perhaps an offset;
what it stands for is scale * q + offset. A function per type takes the block's fields apart, and one adds them up.

The layouts are those of ggml-org/ggml, src/ggml-common.h, with the fields' names; the order of the bits is that of the
dequantize_row functions in src/ggml-quants.c.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.pretrained.gguf import BY_NAME, read_tensor
from jaxllm.pretrained.tensor_file import StoredTensor
from jaxllm.utils.errors import InputError
from jaxllm.utils.validate import shown

AT_ONCE = 2**16  # numbers; what is computed on the way then stays in the processor's cache
FLOATS = ("F32", "F16", "BF16", "F64")

Groups = tuple[np.ndarray, np.ndarray, np.ndarray | None]
"""Of N blocks: q, whole numbers in the order of the tensor; scales [N, groups]; what is added [N, groups], or None."""

# Fields in their order: name, type and, where there are several, in what order `_unpack` takes them.
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
    """One of the tensors of `gguf.read_header`, float32 of its shape, in memory of its own.

    F64 is rounded, and becomes infinite beyond float32. Raises InputError where the type is none of FLOATS or LAYOUTS,
    or the file cannot be read or has changed.
    """
    if tensor.dtype not in FLOATS:
        _check_type(tensor.dtype, f"a tensor of {path}")
        return dequantise(read_tensor(path, tensor), tensor.dtype, tensor.shape)
    with np.errstate(all="ignore"):
        return np.array(read_tensor(path, tensor), np.float32)


def dequantise(blocks: np.ndarray, kind: str, shape: Sequence[int]) -> np.ndarray:
    """The numbers in uint8 blocks of that type ("Q4_K"), float32 [*shape]; a row is whole blocks, one after another.

    Equal to the bit to ggml's dequantize_row functions where a compiler does not fuse * and +. Infinite and undefined
    scales give what IEEE arithmetic does with them. Raises InputError for another type, and for blocks that do not
    fit the shape.
    """
    _check_type(kind, "a tensor")
    block, size, _ = BY_NAME[kind]
    n = math.prod(shape)
    if (shape[-1] if shape else 1) % block or blocks.dtype != np.uint8 or blocks.size != n // block * size:
        raise InputError(
            f"{kind} needs rows of a multiple of {block} numbers and uint8 blocks of {size} bytes for each {block}, "
            f"but got {blocks.size:,} of {blocks.dtype} for shape {shown(list(shape))}; pass what read_tensor gives."
        )
    fields = np.ascontiguousarray(blocks).reshape(-1).view(LAYOUTS[kind])
    numbers = np.empty((n // block, block), np.float32)
    step = AT_ONCE // block
    with np.errstate(all="ignore"):
        for i in range(0, len(fields), step):
            _add_up(DECODERS[kind](fields[i : i + step]), numbers[i : i + step])
    return numbers.reshape(shape)


def _check_type(kind: str, what: str) -> None:
    if kind not in LAYOUTS:
        raise InputError(
            f"{what} is of type {shown(kind)}, but this jaxllm makes float32 of {', '.join((*FLOATS, *LAYOUTS))}; "
            "convert the file to one of these with llama.cpp's llama-quantize."
        )


def _add_up(groups: Groups, numbers: np.ndarray) -> None:
    q, scales, offsets = groups
    grouped = numbers.reshape(*scales.shape, -1)
    np.multiply(q.reshape(grouped.shape), scales[:, :, None], out=grouped)
    if offsets is not None:
        grouped += offsets[:, :, None]


def _unpack(packed: np.ndarray, bits: int) -> np.ndarray:
    """Bytes [N, G, B] as numbers [N, G, 8 / bits, B]: of all the B bytes the lowest bits, then those above."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return packed[:, :, None] >> shifts & np.uint8(2**bits - 1)


def _signed(q: np.ndarray, zero: int) -> np.ndarray:
    return q.view(np.int8) - np.int8(zero)


def _float32(halves: np.ndarray) -> np.ndarray:
    """[N, 1]"""
    return halves.astype(np.float32)[:, None]


def _q4_0(x: np.ndarray) -> Groups:
    return _signed(_unpack(x["qs"], 4), 8), _float32(x["d"]), None


def _q4_1(x: np.ndarray) -> Groups:
    return _unpack(x["qs"], 4), _float32(x["d"]), _float32(x["m"])


def _five_bits(x: np.ndarray) -> np.ndarray:
    """Four in qs, and the fifth of number i in bit i of the four bytes qh, which are one little-endian number."""
    fifth = np.unpackbits(x["qh"], axis=1, bitorder="little")
    return _unpack(x["qs"], 4).reshape(-1, 32) | fifth << 4


def _q5_0(x: np.ndarray) -> Groups:
    return _signed(_five_bits(x), 16), _float32(x["d"]), None


def _q5_1(x: np.ndarray) -> Groups:
    return _five_bits(x), _float32(x["d"]), _float32(x["m"])


def _q8_0(x: np.ndarray) -> Groups:
    return x["qs"], _float32(x["d"]), None


def _q2_k(x: np.ndarray) -> Groups:
    """16 groups of 16; in a byte of scales the lower half is the scale, the upper the minimum."""
    scales, mins = x["scales"] & 15, x["scales"] >> 4
    return _unpack(x["qs"], 2), _float32(x["d"]) * scales, -_float32(x["dmin"]) * mins


def _q3_k(x: np.ndarray) -> Groups:
    """16 groups of 16; a third bit of q in hmask, and 2 bits of each scale in the last 4 bytes of scales."""
    low = _unpack(x["qs"], 2)
    q = low | _unpack(x["hmask"], 1).reshape(low.shape) << 2
    scales = _unpack(x["scales"], 4).reshape(-1, 16) | _unpack(x["scales_high"], 2).reshape(-1, 16) << 4
    return _signed(q, 4), _float32(x["d"]) * _signed(scales, 32), None


def _six_bit_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8 scales and 8 minima, uint8 [N, 8]: of the first four of each 6 bits of a byte, whose other two are the upper
    bits of the last four; the lower bits of those are in the last 4 bytes."""
    scales, mins, last = x["scales"][:, 0], x["scales"][:, 1], x["scales"][:, 2]
    return (
        np.concatenate([scales & 63, last & 15 | scales >> 6 << 4], axis=1),
        np.concatenate([mins & 63, last >> 4 | mins >> 6 << 4], axis=1),
    )


def _q4_k(x: np.ndarray) -> Groups:
    scales, mins = _six_bit_scales(x)
    return _unpack(x["qs"], 4), _float32(x["d"]) * scales, -_float32(x["dmin"]) * mins


def _q5_k(x: np.ndarray) -> Groups:
    """As Q4_K, with the fifth bit of group i in bit i of the bytes of qh."""
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
