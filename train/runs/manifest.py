"""`manifest.json`, written last: the sha256 of everything in a checkpoint.

Every array (as it was in memory) and every file (as it is on disk) has its sha256, and so has the manifest itself. A
changed byte or a missing file is then found before a run trains on it.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import jax
import msgspec
import numpy as np

from jaxllm import __version__
from jaxllm.utils.errors import shown
from jaxllm.utils.files import open_file, read_file, replace_file, sync_folder
from jaxllm.utils.processes import usable_cores

from ..errors import DamagedError, reason
from .arrays import named

MANIFEST = "manifest.json"
FORMAT: Literal["jaxllm checkpoint"] = "jaxllm checkpoint"
VERSION: Literal[2] = 2  # format 1 was Orbax's folder without a manifest
MOST_BYTES = 2**26  # of a manifest; GPT-2 XL's has 0.4 MB

T = TypeVar("T")
R = TypeVar("R")


class StoredArray(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array of the state."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str | None  # of its bytes in C order, little-endian; None where no process held all of it


class StoredFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the checkpoint."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `manifest.json`."""

    format: Literal["jaxllm checkpoint"]
    version: Literal[2]
    step: int
    val_loss: float | None  # None if that step was not evaluated
    versions: dict[str, str]  # of the packages that wrote it
    config: dict[str, dict[str, Any]]  # of the run, all sections
    tokenizer: str  # fingerprint
    arrays: dict[str, StoredArray]
    files: dict[str, StoredFile]
    sha256: str = ""  # of the manifest without this field


def new_manifest(step: int, val_loss: float | None, config: Mapping[str, Any], tokenizer: str) -> Manifest:
    """A manifest without arrays and files, which `seal` adds."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
    versions = {"jaxllm": __version__, "python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in packages}
    return Manifest(FORMAT, VERSION, step, val_loss, versions, dict(config), tokenizer, {}, {})


def describe_arrays(tree: Any) -> dict[str, StoredArray]:
    """Shape, dtype and sha256 of each leaf, by its name; no sha256 where other processes hold a part of it."""

    def describe(leaf: Any) -> StoredArray:
        if isinstance(leaf, jax.Array) and not (leaf.is_fully_addressable or leaf.is_fully_replicated):
            return StoredArray(leaf.shape, leaf.dtype.name, None)
        array = np.ascontiguousarray(leaf)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest = hashlib.sha256(little.reshape(-1).view(np.uint8)).hexdigest()
        return StoredArray(np.shape(leaf), array.dtype.name, digest)

    names, leaves = zip(*named(tree), strict=True)
    return dict(zip(names, _on_all_cores(describe, leaves), strict=True))


def seal(folder: Path, manifest: Manifest, arrays: dict[str, StoredArray]) -> None:
    """Write every file to the disk (fsync), then the manifest, which lists them all. Raises OSError."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = _on_all_cores(_synced, paths)
    files = {path.relative_to(folder).as_posix(): stored for path, stored in zip(paths, found, strict=True)}
    for place in {folder, *(place for place in folder.rglob("*") if place.is_dir())}:
        sync_folder(place)
    rewrite(folder, msgspec.structs.replace(manifest, arrays=arrays, files=files))


def rewrite(folder: Path, manifest: Manifest) -> None:
    """Write or replace the manifest. Raises OSError."""
    replace_file(folder / MANIFEST, _encode(manifest))
    sync_folder(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a checkpoint's folder. Raises DamagedError if it is missing or damaged."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DamagedError(
                f"{path} has {path.stat().st_size:,} bytes, more than the {MOST_BYTES:,} of any manifest"
            )
        raw = read_file(path)
        manifest = msgspec.json.decode(raw, type=Manifest)
    except FileNotFoundError:
        raise DamagedError(f"{path} is missing") from None
    except OSError as error:
        raise DamagedError(f"{path} cannot be read: {reason(error)}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError(f"{path} is no manifest of format {VERSION}, or damaged: {reason(error)}") from None
    if _encode(manifest) != raw:
        raise DamagedError(f"{path} is damaged: its sha256 differs")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare each file of the folder. Raises DamagedError that names the first file that is missing or has changed."""

    def find_fault(item: tuple[str, StoredFile]) -> str:
        name, stored = item
        path = folder / name
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or not name.isprintable():
            return f"{folder / MANIFEST} names a file that cannot be in it, {shown(name)}"
        try:
            size = path.stat().st_size
            digest = _sha256(path) if size == stored.bytes else ""
        except FileNotFoundError:
            return f"{path} is missing"
        except OSError as error:
            return f"{path} cannot be read: {reason(error)}"
        if size != stored.bytes:
            return f"{path} has {size:,} bytes, not {stored.bytes:,}"
        return "" if digest == stored.sha256 else f"{path} is damaged: its sha256 differs"

    for fault in _on_all_cores(find_fault, list(manifest.files.items())):
        if fault:
            raise DamagedError(fault)


def check_arrays(tree: Any, manifest: Manifest) -> None:
    """Compare the arrays that were read. Raises DamagedError that names the first one that has changed."""
    read = describe_arrays(tree)
    for name in sorted(read | manifest.arrays):
        if not _agree(read.get(name), manifest.arrays.get(name)):
            raise DamagedError(f"the array {name} is not the one that was written")


def _agree(a: StoredArray | None, b: StoredArray | None) -> bool:
    """Whether they are the same array. The bytes of one that no process holds are compared as those of its files."""
    if a and b and None in (a.sha256, b.sha256):
        return (a.shape, a.dtype) == (b.shape, b.dtype)
    return a == b


def _encode(manifest: Manifest) -> bytes:
    """Indented JSON, the same bytes for the same content, with its own sha256."""
    bare = msgspec.json.encode(msgspec.structs.replace(manifest, sha256=""), order="sorted")
    whole = msgspec.structs.replace(manifest, sha256=hashlib.sha256(bare).hexdigest())
    return msgspec.json.format(msgspec.json.encode(whole, order="sorted"), indent=1) + b"\n"


def _synced(path: Path) -> StoredFile:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return StoredFile(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def _sha256(path: Path) -> str:
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _on_all_cores(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(usable_cores()) as pool:  # sha256 and reading release Python's lock
        return list(pool.map(function, items))
