"""A tensor in a file of weights: where it lies, and its numbers without reading the others."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import open_file
from jaxllm.utils.validate import shown

MOST_BYTES = 2**63 - 1  # of a tensor, were each of its dimensions at least 1: no array can be longer


class StoredTensor(msgspec.Struct, frozen=True):
    """Where a tensor lies in its file."""

    dtype: str  # as the file's format names it: "BF16", "Q4_K"
    shape: tuple[int, ...]  # the last index runs fastest, as in NumPy
    start: int  # bytes from the beginning of the file
    stop: int


def damaged(path: str | Path, kind: str, what: str) -> InputError:
    """What to say of a file of that kind ("safetensors") that breaks one of its rules."""
    return InputError(f"{path} is no {kind} file, or damaged: {what}; download it again.")


def addressable(shape: Iterable[int], bytes_each: int) -> bool:
    """Whether an array can have that shape; one of no elements can be too large as well."""
    return math.prod(max(n, 1) for n in shape) * bytes_each <= MOST_BYTES


def map_tensor(path: str | Path, tensor: StoredTensor, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor's bytes as an array of that dtype and shape: read-only, and read from the disk as they are used.

    Raises InputError where the file cannot be read or has become shorter than its header said.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < tensor.stop:
                raise InputError(
                    f"{path} has {size:,} bytes, but a tensor {shown(tensor.dtype)} ends at byte {tensor.stop:,}: it "
                    "was cut short since its header was read; download it again."
                )
            if tensor.start == tensor.stop:
                return np.empty(shape, dtype)
            raw = np.memmap(file, np.uint8, "r", tensor.start, tensor.stop - tensor.start)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    return np.asarray(raw).view(dtype).reshape(shape)


def is_finite(x: np.ndarray) -> bool:
    """Whether all numbers are finite in float32, without an array of as many answers."""
    most = np.finfo(np.float32).max
    return bool(-most <= x.min(initial=0) and x.max(initial=0) <= most)  # a NaN is the least and the largest
