"""The types of tensors in a GGUF file that is written, and their numbers in these types.

Which tensor gets which type is llama.cpp's choice. (ggml-org/llama.cpp, convert_hf_to_gguf.py, prepare_tensors)
"""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from jaxllm.pretrained.gguf import BY_NAME
from jaxllm.utils.errors import InputError, shown

# The type of most tensors: its name in GGUF, and its number as `general.file_type` (llama.cpp, include/llama.h).
FILE_TYPES = {"float32": ("F32", 0), "float16": ("F16", 1), "q8_0": ("Q8_0", 7)}
BLOCK = BY_NAME["Q8_0"][0]
# Positions, because ggml adds its rows to others and has no kernel for that in each type; and the router of experts.
ALWAYS_FLOAT32 = ("position_embd.weight", "ffn_gate_inp.weight")
AT_ONCE = 2**20  # numbers that are converted at a time


def check_dtype(dtype: str) -> None:
    """Raises InputError unless the dtype is one of FILE_TYPES."""
    if dtype not in FILE_TYPES:
        raise InputError(f"--dtype is {shown(dtype)}, but a GGUF file is written in {', '.join(FILE_TYPES)}.")


def stored_type(name: str, shape: Sequence[int], dtype: str) -> str:
    """The GGUF type of a tensor in a file of that dtype: "F32", "F16" or "Q8_0".

    Vectors, the table of positions and routers are F32. A tensor whose rows are no whole blocks of Q8_0 is F16.
    """
    if len(shape) < 2 or name.endswith(ALWAYS_FLOAT32):
        return "F32"
    kind, _ = FILE_TYPES[dtype]
    return "F16" if shape[-1] % BY_NAME[kind][0] else kind


def stored_bytes(shape: Sequence[int], kind: str) -> int:
    """The bytes of a tensor of that GGUF type."""
    block, size, _ = BY_NAME[kind]
    return math.prod(shape) // block * size


def encoded(x: np.ndarray, kind: str, name: str) -> Iterator[np.ndarray]:
    """The tensor's bytes, a few rows at a time: uint8 [bytes] each; `name` is for messages.

    Numbers of any float dtype become float32 first, and are then rounded to the nearest. Raises InputError if a number,
    or the scale of a block of Q8_0, is beyond float16.
    """
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    step = max(1, AT_ONCE // max(1, math.prod(rows.shape[1:])))
    for i in range(0, len(rows), step):
        part = np.ascontiguousarray(rows[i : i + step], np.float32)
        yield _encoded_rows(part, kind, name).reshape(-1).view(np.uint8)


def _encoded_rows(rows: np.ndarray, kind: str, name: str) -> np.ndarray:
    if kind == "F32":
        return rows.astype("<f4", copy=False)
    with np.errstate(over="ignore"):
        stored = rows.astype("<f2") if kind == "F16" else quantise_q8_0(rows)
    halves = stored if kind == "F16" else stored.reshape(-1, BY_NAME[kind][1])[:, :2].copy().view("<f2")
    if not np.isfinite(halves).all():
        raise InputError(
            f"the tensor {shown(name)} holds {np.abs(rows).max():.3g}, which {kind} cannot hold; export it as float32."
        )
    return stored


def quantise_q8_0(x: np.ndarray) -> np.ndarray:
    """Float32 [..., N] in blocks of Q8_0: uint8 [..., N / 32 * 34]; N is a multiple of 32.

    A block of 32 numbers is a scale d in float16, little-endian, and 32 integers q in int8, which stand for d q. Before
    it is rounded, d is the largest |x| over 127. q is x / d rounded to the nearest, halves away from zero, by the
    product with 1 / d in float32. (ggml-org/ggml, src/ggml-quants.c, quantize_row_q8_0_ref) A block whose d is 0, or
    so small that 1 / d is infinite, has integers 0. Raises InputError for another N.
    """
    if x.ndim == 0 or x.shape[-1] % BLOCK:
        raise InputError(f"Q8_0 needs rows of a multiple of {BLOCK} numbers, but got shape {shown(list(x.shape))}.")
    blocks = np.asarray(x, np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = 1 / scales
        inverse[~np.isfinite(inverse)] = 0
        halves = scales.astype("<f2")
    scaled = blocks * inverse
    size = np.abs(scaled)
    whole = np.floor(size)
    whole += size - whole >= 0.5  # x + 0.5 would round up the largest float32 below 0.5
    integers = np.copysign(whole, scaled).astype(np.int8)
    stored = np.concatenate([halves.view(np.uint8), integers.view(np.uint8)], axis=1)
    return stored.reshape(*x.shape[:-1], stored_bytes(x.shape[-1:], "Q8_0"))
