"""The folder of compiled code, which later runs execute: writable by its user only."""

import os
import platform
import stat
import sys
from pathlib import Path

VARIABLE = "JAXLLM_COMPILE_CACHE"  # "off", or a folder


def default_place() -> str:
    """A folder in the user's folder for caches."""
    caches = "~/Library/Caches" if sys.platform == "darwin" else "~/.cache"
    return os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser(caches), "jaxllm", "xla")


def processor() -> list[str]:
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


class NotPrivateError(Exception):
    """A folder cannot be made, or others can write into it; the message says why and names VARIABLE."""


def private_file(folder: str, name: str) -> Path | None:
    """The path of a file in a folder beside the compiled programs; None if VARIABLE is "off".

    The folder is created. Raises NotPrivateError.
    """
    place = os.environ.get(VARIABLE) or default_place()
    if place == "off":
        return None
    path = Path(place, folder).absolute()
    if reason := make_private(path.parent) or make_private(path):
        raise NotPrivateError(f"{reason}; choose a folder with {VARIABLE}")
    return path / name
