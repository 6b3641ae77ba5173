"""A recording of one training step of a foreign model, as `record.py` writes it: an .npz or a safetensors file.

The keys of its arrays: `tokens` and `targets` [B, T]; `loss`; `in/MODULE`, a module's first argument; `out/MODULE`, its
result, and `grad_out/MODULE`, the gradient there; `param/NAME`, `grad/NAME` and `after/NAME`, a parameter, its gradient
and what the optimizer's step made of it. Modules and parameters have PyTorch's dotted names. `about` is JSON.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from jaxllm.compare.array_file import read_arrays
from jaxllm.utils.errors import InputError, nearest, printable, shown

KINDS_OF_KEYS = ("in", "out", "grad_out", "param", "grad", "after")  # followed by / and a name
SINGLE_KEYS = ("tokens", "targets", "loss", "about")
ROOT = "."  # the name of the whole model among the modules; PyTorch's is empty
REMEDY = "record it with the file that `jaxllm compare --write-recorder record.py` writes"
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
    arrays, about = read_arrays(path, REMEDY)
    _check_keys(path, arrays)
    named = {
        kind: {k.partition("/")[2] or ROOT: x for k, x in arrays.items() if _kind(k) == kind} for kind in KINDS_OF_KEYS
    }
    loss = arrays.get("loss")
    recording = Recording(
        str(path), _tokens(path, arrays, "tokens"), _tokens(path, arrays, "targets"),
        None if loss is None or loss.size != 1 else float(loss.reshape(-1)[0]),
        named["in"], named["out"], named["grad_out"], named["param"], named["grad"], named["after"],
        _read_about(path, about),
    )  # fmt: skip
    _check_shapes(recording)
    if recording.tokens.shape != recording.targets.shape:
        raise InputError(
            f"{path} has tokens {list(recording.tokens.shape)} and targets {list(recording.targets.shape)}; they must "
            f"have the same shape [B, T]: {REMEDY}."
        )
    return recording


def _check_shapes(recording: Recording) -> None:
    """Raises InputError for a gradient or a changed parameter of another shape than the parameter's."""
    for kind, arrays in (("grad", recording.gradients), ("after", recording.after)):
        for name, x in arrays.items():
            if name in recording.params and x.shape != recording.params[name].shape:
                raise InputError(
                    f"{recording.path} has {shown(f'{kind}/{name}')} of shape {list(x.shape)}, but the parameter is "
                    f"{list(recording.params[name].shape)}; {REMEDY}."
                )


def _kind(key: str) -> str:
    return key.partition("/")[0]


def _check_keys(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises InputError for a key that a recording does not have, and for a recording without parameters."""
    _check_printable(path, arrays)
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
        about = msgspec.json.decode(text[:MOST_ABOUT] or "{}", type=About)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InputError(f"`about` of {path} is not what record.py writes: {printable(str(error))}.") from None
    _check_printable(path, [about.torch, about.dtype, *about.classes.values(), *about.tied.values()])
    _check_printable(path, [about.optimizer.class_] if about.optimizer else [])
    return about


def _check_printable(path: str | Path, names: Iterable[str]) -> None:
    """Raises InputError for a name that would change the terminal which it is printed on."""
    for name in names:
        if not name.isprintable():
            raise InputError(f"{path} has the name {shown(name)}, with characters that cannot be printed; {REMEDY}.")
