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

VARIABLE = "JAXLLM_COMPILE_CACHE"  # "off", or a folder
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


def default_place() -> str:
    """A folder in the user's folder for caches."""
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(caches), "jaxllm", "xla")


def machine_key() -> str:
    """A key of this JAX, system and processor; compiled code may not run under another key."""
    machine = [jax.__version__, jaxlib.__version__, platform.system(), platform.machine(), *_processor()]
    return hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]


def doubts_its_own() -> bool:
    """Whether this JAX takes programs that it has compiled on this processor for another processor's.

    Before 0.11 it looks for LLVM's tuning flag +prefer-no-gather, set for Intel's processors, among the processor's
    features, and prints an error of several lines for each program that it reads (jax-ml/jax#38445).
    """
    return jax.__version_info__ < (0, 11) and any("GenuineIntel" in line for line in _processor())


def _processor() -> list[str]:
    """The processor's name and features: on Linux the lines of x86 or ARM, elsewhere the name that Python knows."""
    names = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.partition(":")[0].strip() in names})


def make_private(folder: Path) -> str:
    """Create the folder for its owner only. Returns why it cannot be trusted, "" if it can."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except (OSError, ValueError) as error:
        return f"{folder}: {getattr(error, 'strerror', None) or error}"
    if os.name == "posix" and found.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    if os.name == "posix" and found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write into {folder}"
    return ""


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
