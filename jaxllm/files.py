"""Files that are there whole or not at all."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file aside, have it reach the disk, then rename it. Raises OSError that names the file and the remedy."""
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to be written piece by piece, as `replace_file` does; after an exception the old one stays."""
    aside = path.with_name(path.name + ".tmp")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException as error:
        with suppress(OSError):
            aside.unlink()
        if not isinstance(error, OSError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "; make room, then give the same command again" if full else ""
        raise OSError(error.errno, f"{error.strerror}{remedy}", str(path)) from None


def open_file(path: str | Path) -> BufferedReader:
    """A regular file, to be read; a device may have no end, and a pipe nobody who writes. Raises OSError."""

    def at_once(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=at_once)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_file(path: str | Path) -> bytes:
    """The content of a regular file. Raises OSError."""
    with open_file(path) as file:
        return file.read()


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, and so a rename there, reach the disk; not every system can be asked for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
