"""Compiled programs are kept between runs: the first step of a model seen before waits seconds less for XLA.

What is kept is machine code that a later run executes. So it lies where nobody but the user can write, and apart for
each processor: code for one may crash on another. Only the program does this; `import jaxllm` changes nothing.
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
MOST_BYTES = 2**30  # kept; JAX's own bound would need another package
DAMAGED = "Error reading persistent compilation cache entry"  # as JAX begins its warning


def keep_compiled() -> None:
    """Have JAX keep what it compiles, unless VARIABLE is "off"; where JAX has been given a folder, that one is used.

    Nothing is kept where JAX would print errors about it (`doubts_its_own`).
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
    """The user's folder for what can be made anew."""
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(caches), "jaxllm", "xla")


def machine_key() -> str:
    """Different wherever compiled code may not run: another JAX, system or processor."""
    machine = [jax.__version__, jaxlib.__version__, platform.system(), platform.machine(), *_processor()]
    return hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]


def doubts_its_own() -> bool:
    """Whether this JAX takes what it has compiled on this processor for another one's.

    Before 0.11 it looks for LLVM's +prefer-no-gather, which is a choice for Intel's processors, among the processor's
    features, and prints an error of several lines for each program that it reads (jax-ml/jax#38445).
    """
    return jax.__version_info__ < (0, 11) and any("GenuineIntel" in line for line in _processor())


def _processor() -> list[str]:
    """Name and features, as Linux lists them for each core: the names of the lines on x86 and on ARM."""
    names = ("vendor_id", "model name", "flags", "CPU implementer", "CPU part", "Features")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.partition(":")[0].strip() in names})


def make_private(folder: Path) -> str:
    """Make the folder, for its owner only. Returns why it cannot be trusted, "" if it can."""
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
    """Delete the files that were longest not used, until the rest fit. Another run may be doing the same."""
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
    """At JAX's warning of an entry that it cannot read, delete all.

    JAX then compiles, and the run goes on; but it never replaces an entry and would warn in every run to come.
    """
    show = warnings.showwarning

    def showwarning(message: Warning | str, *rest: Any, **more: Any) -> None:
        if not str(message).startswith(DAMAGED):
            return show(message, *rest, **more)
        entries = [path for path in folder.iterdir() if path.is_file()]
        for path in entries:
            _delete(path)
        print(f"note: of the compiled programs in {folder} one was damaged; all {len(entries)} are compiled anew.",
              file=sys.stderr)  # fmt: skip

    warnings.showwarning = showwarning


def _delete(path: Path) -> None:
    try:
        path.unlink()
    except OSError:  # gone already
        pass
