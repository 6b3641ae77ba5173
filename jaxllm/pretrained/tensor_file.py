"""A tensor in a file of weights: its place, and an array that maps it from the file."""

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import open_file

MOST_BYTES = 2**63 - 1  # of an array whose dimensions of 0 count as 1; NumPy allows no more


class StoredTensor(msgspec.Struct, frozen=True):
    """The place and type of a tensor in its file."""

    dtype: str  # as the file's format names it: "BF16", "Q4_K"
    shape: tuple[int, ...]  # the last index varies fastest, as in NumPy
    start: int  # in bytes from the beginning of the file
    stop: int


def damaged(path: str | Path, kind: str, what: str) -> InputError:
    """The error for a file of that kind ("safetensors") that breaks a rule of its format."""
    return InputError(f"{path} is not a valid {kind} file: {what}; download it again.")


def addressable(shape: Iterable[int], bytes_each: int) -> bool:
    """Whether NumPy can make an array of that shape; an array without elements can be too large too."""
    return math.prod(max(n, 1) for n in shape) * bytes_each <= MOST_BYTES


def map_tensor(path: str | Path, tensor: StoredTensor, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only array of that dtype and shape over the tensor's bytes, which are read from disk on use.

    Raises InputError if the file cannot be read, or has become shorter since its header was read.
    """
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size < tensor.stop:
                raise InputError(
                    f"{path} has {size:,} bytes, but a tensor {shown(tensor.dtype)} ends at byte {tensor.stop:,}: it "
                    "was truncated after its header was read; download it again."
                )
            if tensor.start == tensor.stop:
                return np.empty(shape, dtype)
            raw = np.memmap(file, np.uint8, "r", tensor.start, tensor.stop - tensor.start)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    return np.asarray(raw).view(dtype).reshape(shape)


def is_finite(x: np.ndarray) -> bool:
    """Whether all numbers are finite in float32. Allocates no array of the same size."""
    most = np.finfo(np.float32).max
    return bool(-most <= x.min(initial=0) and x.max(initial=0) <= most)  # min and max of an array with NaN are NaN
