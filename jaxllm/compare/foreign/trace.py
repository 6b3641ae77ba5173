"""A recording of one training step of a foreign model, as `record.py` writes it: an .npz or a safetensors file.

The keys of its arrays: `tokens` and `targets` [B, T]; `loss`; `in/MODULE`, a module's first argument; `out/MODULE`, its
result, and `grad_out/MODULE`, the gradient there; `param/NAME`, `grad/NAME` and `after/NAME`, a parameter, its gradient
and what the optimizer's step made of it. Modules and parameters have PyTorch's dotted names. `about` is JSON.
"""

import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jaxllm.pretrained import safetensors
from jaxllm.utils.errors import InputError, nearest, printable, shown
from jaxllm.utils.files import open_file

KINDS_OF_KEYS = ("in", "out", "grad_out", "param", "grad", "after")  # followed by / and a name
SINGLE_KEYS = ("tokens", "targets", "loss", "about")
ROOT = "."  # the name of the whole model among the modules; PyTorch's is empty
REMEDY = "record it with the file that `jaxllm compare --write-recorder record.py` writes"
# What zipfile raises, and NumPy, which reads the header of an array as a text of Python.
DAMAGE = (
    OSError, ValueError, EOFError, RuntimeError, SyntaxError, TypeError, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError,
)  # fmt: skip
MOST_ABOUT = 2**24  # bytes of the JSON


class ForeignOptimizer(msgspec.Struct, frozen=True):
    """The optimizer of a recording: its class in PyTorch and its groups of parameters with their settings."""

    class_: str = msgspec.field(name="class", default="")
    groups: list[dict[str, Any]] = []
    new: bool = True  # whether the step was its first


class About(msgspec.Struct, frozen=True):
    """What is known of a recording beside its numbers."""

    torch: str = ""
    dtype: str = "float32"
    classes: dict[str, str] = {}  # of the modules
    tied: dict[str, str] = {}  # name of a parameter that is another: the other's name
    optimizer: ForeignOptimizer | None = None


@dataclass(frozen=True)
class Recording:
    """A recording in memory. Each mapping has the names of modules or of parameters."""

    path: str
    tokens: np.ndarray  # [B, T]
    targets: np.ndarray  # [B, T]
    loss: float | None
    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    output_gradients: Mapping[str, np.ndarray]
    params: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    after: Mapping[str, np.ndarray]
    about: About


def read_trace(path: str | Path) -> Recording:
    """The recording in a file. Raises InputError if it cannot be read, is damaged, or holds something else."""
    try:
        with open_file(path) as file:
            magic = file.read(2)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    arrays, text = _read_npz(path) if magic == b"PK" else _read_safetensors(path)
    _check_keys(path, arrays)
    named = {
        kind: {k.partition("/")[2] or ROOT: x for k, x in arrays.items() if _kind(k) == kind} for kind in KINDS_OF_KEYS
    }
    loss = arrays.get("loss")
    recording = Recording(
        str(path), _tokens(path, arrays, "tokens"), _tokens(path, arrays, "targets"),
        None if loss is None or loss.size != 1 else float(loss.reshape(-1)[0]),
        named["in"], named["out"], named["grad_out"], named["param"], named["grad"], named["after"],
        _read_about(path, text),
    )  # fmt: skip
    if recording.tokens.shape != recording.targets.shape:
        raise InputError(
            f"{path} has tokens {list(recording.tokens.shape)} and targets {list(recording.targets.shape)}; they must "
            f"have the same shape [B, T]: {REMEDY}."
        )
    return recording


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _read_npz(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of an .npz file by name, and the JSON `about`. Nothing in it is unpickled."""
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, about headers written by Python 2
            arrays = {info.filename.removesuffix(".npy"): _read_member(archive, info) for info in archive.infolist()}
    except DAMAGE as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no valid .npz file: {printable(str(error))}; record it again.") from None
    about = arrays.pop("about", np.array("{}"))
    return arrays, str(about) if about.dtype.kind == "U" and about.nbytes <= 4 * MOST_ABOUT else "{}"


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    """An array of the archive, allocated only if its header agrees with its size. Raises ValueError."""
    with archive.open(info) as file:
        major, _ = np.lib.format.read_magic(file)
        read: Callable[..., Any] = (
            np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
        if dtype.kind not in ("U" if info.filename == "about.npy" else "fiub"):
            raise ValueError(f"{shown(info.filename)} holds {shown(str(dtype))}, not numbers")
        if math.prod(shape) * dtype.itemsize != info.file_size - file.tell():
            raise ValueError(f"{shown(info.filename)} has another size than its header says")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    if Path(path).suffix != ".safetensors":
        raise InputError(f"{path} is neither an .npz nor a .safetensors file; {REMEDY}.")
    header = safetensors.read_header(path)
    arrays = {name: np.asarray(safetensors.read_tensor(path, one)) for name, one in header.tensors.items()}
    return arrays, header.metadata.get("about", "{}")


def _check_keys(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a key that a recording does not have, and for a recording without parameters."""
    for key in arrays:
        if not (key in SINGLE_KEYS or ("/" in key and _kind(key) in KINDS_OF_KEYS)):
            kinds = [*SINGLE_KEYS, *(f"{kind}/NAME" for kind in KINDS_OF_KEYS)]
            raise InputError(f"{path} has the key {shown(key)}, which no recording has; {nearest(key, kinds)}")
    if not any(_kind(key) == "param" for key in arrays):
        raise InputError(f"{path} has no parameters (param/NAME), so nothing can be computed; {REMEDY}.")


def _tokens(path: str | Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """The integers [B, T] under a key. Raises InputError for anything else."""
    x = arrays.get(key)
    if x is None:
        raise InputError(f"{path} has no {key}; {REMEDY}.")
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "iu":
        raise InputError(f"{key} of {path} are {x.dtype} {list(x.shape)}, but they must be integers [B, T]; {REMEDY}.")
    return x.astype(np.int64)


def _read_about(path: str | Path, text: str) -> About:
    try:
        return msgspec.json.decode(text[:MOST_ABOUT], type=About)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"`about` of {path} is not what record.py writes: {printable(str(error))}.") from None
