"""Files of arrays that other programs write: .npz, by `np.savez`, and .safetensors. Nothing in them is unpickled."""

import lzma
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pretrained import safetensors
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import open_file

# What zipfile raises, and NumPy, which reads the header of an array as a text of Python.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError, tokenize.TokenError,
)  # fmt: skip
ABOUT = "about"  # the only text that an .npz may hold; in a .safetensors file it is in the metadata


class ArrayFile(NamedTuple):
    """The content of a file."""

    arrays: dict[str, np.ndarray]  # of numbers and bools, by name
    about: str  # "" where there is none


def read_arrays(path: str | Path, remedy: str) -> ArrayFile:
    """The arrays of an .npz or .safetensors file.

    Raises InputError if it cannot be read, is damaged, or holds something else; `remedy` says how to write a right one.
    """
    try:
        with open_file(path) as file:
            magic = file.read(2)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from None
    if magic == b"PK":
        return _read_npz(path, remedy)
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path} is neither an .npz nor a .safetensors file; {remedy}.")
    header = safetensors.read_header(path)
    arrays = {name: np.asarray(safetensors.read_tensor(path, one)) for name, one in header.tensors.items()}
    return ArrayFile(arrays, header.metadata.get(ABOUT, ""))


def _read_npz(path: str | Path, remedy: str) -> ArrayFile:
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about headers written by Python 2
            arrays = {info.filename.removesuffix(".npy"): _read_member(archive, info) for info in archive.infolist()}
    except DAMAGE as error:
        raise InputError(f"{path} is no valid .npz file: {printable(str(error))}; {remedy}.") from None
    has_text = ABOUT in arrays and arrays[ABOUT].dtype.kind == "U"
    return ArrayFile(arrays, str(arrays.pop(ABOUT)) if has_text else "")


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of the archive, allocated only if its header agrees with its size. Raises ValueError."""
    with archive.open(info) as file:
        major, _ = np.lib.format.read_magic(file)
        read: Callable[..., Any] = (
            np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        if dtype.kind not in ("Ufiub" if info.filename == f"{ABOUT}.npy" else "fiub"):
            raise ValueError(f"{shown(info.filename)} holds {shown(str(dtype))}, not numbers")
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{shown(info.filename)} has another size than its header says")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)
