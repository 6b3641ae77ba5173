"""Reading regular files, and writing files so that they are complete or absent."""

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import decoded

MOST_BYTES = 2**28  # of a text that is read whole; a tokenizer.json of 262,144 tokens has 33 MB


def replace_file(path: Path, content: bytes) -> None:
    """Write a temporary file, flush it to disk, then rename it to `path`.

    Raises OSError that names the file and, for a full disk, the fix.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BufferedWriter]:
    """A file to write piece by piece, replaced as by `replace_file`; after an exception the old one stays."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "; make room, then give the same command again" if full else ""
        raise OSError(error.errno, f"{error.strerror}{fix}", str(path)) from None


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder, and so a rename there, to disk. Windows opens no folders: there it does nothing."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_file(path: str | Path) -> BufferedReader:
    """A regular file opened for reading. Raises OSError.

    Devices and pipes are refused: a device may never end, and opening a pipe waits for a writer. (Opening without
    waiting is POSIX's; Windows has no pipes among its files.)
    """

    def without_waiting(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))

    file = open(path, "rb", opener=without_waiting)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def read_file(path: str | Path) -> bytes:
    """The content of a regular file. Raises OSError."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str | Path) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Raises InputError for one that is not UTF-8, cannot be read or has over MOST_BYTES.
    """
    try:
        with open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise InputError(f"{path} has {size:,} bytes, more than the {MOST_BYTES:,} of any such file.")
            return decoded(file.read(), path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None


def read_json(path: str | Path, what: str) -> Any:
    """The content of a JSON file; `what` says in messages what it should be, such as "tokenizer.json".

    Raises InputError for a file that is not JSON, cannot be read or has over MOST_BYTES.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a {what}: it is not JSON.") from None
