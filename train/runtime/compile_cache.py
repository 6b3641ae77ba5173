"""JAX's persistent compilation cache, so that XLA compiles a program only in the first run that needs it.

The cache holds machine code that later runs execute. So its folder is writable by the user only, with a subfolder for
each processor, because code for one may crash on another. Only the program enables it; `import jaxllm` does not.
"""

import hashlib
import os
import platform
import stat
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jaxlib

from jaxllm.utils.private_folder import VARIABLE, default_place, make_private, processor

MOST_BYTES = 2**30  # of the cache; JAX's own limit needs another package
DAMAGED = "Error reading persistent compilation cache entry"  # the start of JAX's warning


def keep_compiled() -> None:
    """Enable the cache, unless VARIABLE is "off". If JAX has a folder configured, that folder is used.

    The cache stays off where JAX would print errors about it (`doubts_its_own`).
    """
    place = os.environ.get(VARIABLE) or default_place()
    if place == "off" or jax.config.jax_compilation_cache_dir or doubts_its_own():
        return
    folder = Path(place, machine_key()).absolute()
    reason = make_private(folder.parent) or make_private(folder)
    if reason:
        print(f"note: compiled programs are not kept: {reason}; choose a folder with {VARIABLE}.", file=sys.stderr)
        return
    drop_oldest(folder.parent, MOST_BYTES)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run has dozens of small programs
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    empty_when_damaged(folder)


def machine_key() -> str:
    """A key of this JAX, system and processor; compiled code may not run under another key."""
    machine = [jax.__version__, jaxlib.__version__, platform.system(), platform.machine(), *processor()]
    return hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]


def doubts_its_own() -> bool:
    """Whether this JAX takes programs that it has compiled on this processor for another processor's.

    Before 0.11 it looks for LLVM's tuning flag +prefer-no-gather, set for Intel's processors, among the processor's
    features, and prints an error of several lines for each program that it reads (jax-ml/jax#38445).
    """
    return jax.__version_info__ < (0, 11) and any("GenuineIntel" in line for line in processor())


def drop_oldest(folder: Path, most_bytes: int) -> None:
    """Delete the least recently used files until the rest fit. Another run may be doing the same."""
    files = []
    for path in folder.rglob("*"):
        try:
            found = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(found.st_mode):
            files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    size = sum(size for _, size, _ in files)
    for _, bytes_, path in sorted(files):
        if size <= most_bytes:
            return
        _delete(path)
        size -= bytes_


def empty_when_damaged(folder: Path) -> None:
    """Delete all entries when JAX warns of one that it cannot read.

    JAX then compiles the program, but it never replaces an entry and would warn in every later run.
    """
    show = warnings.showwarning

    def showwarning(message: Warning | str, *rest: Any, **more: Any) -> None:
        if not str(message).startswith(DAMAGED):
            return show(message, *rest, **more)
        entries = [path for path in folder.iterdir() if path.is_file()]
        for path in entries:
            _delete(path)
        print(f"note: of the compiled programs in {folder} one was damaged; all {len(entries)} are compiled again.",
              file=sys.stderr)  # fmt: skip

    warnings.showwarning = showwarning


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # already deleted
        pass
