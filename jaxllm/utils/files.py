"""Files that are there whole or not at all, and the text in them."""

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, BufferedWriter
from pathlib import Path

from jaxllm.utils.errors import InputError

MOST_BYTES = 2**28  # of a text that is read whole; a tokenizer.json of 262,144 tokens has 33 MB
MARKS = {  # UTF-32 is first, because its little-endian mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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


def without_mark(content: bytes, name: object) -> bytes:
    """The bytes of a text without the byte-order mark of UTF-8, which is no part of it.

    Raises InputError, which calls the text `name`, where the mark is that of UTF-16 or UTF-32.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            raise InputError(
                f"{name} is {encoding}, as its byte-order mark says; convert it to UTF-8 first, for example with "
                f"iconv -f {encoding} -t UTF-8."
            )
    return content.removeprefix(codecs.BOM_UTF8)


def decoded(content: bytes, name: object) -> str:
    """The text of bytes in UTF-8, without a byte-order mark. Raises InputError, which calls it `name`, for others."""
    bare = without_mark(content, name)
    try:
        return bare.decode("utf-8")
    except UnicodeDecodeError as error:
        raise not_utf8(name, error, len(content) - len(bare)) from None


def not_utf8(name: object, error: UnicodeDecodeError, offset: int = 0) -> InputError:
    """The error for a text whose bytes from `offset` on could not be decoded."""
    return InputError(
        f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset + error.start}; convert it "
        f"first, for example with iconv."
    )


def read_text(path: str | Path) -> str:
    """The text of a file as `decoded`. Raises InputError for one that cannot be read or has over MOST_BYTES."""
    try:
        with open_file(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
                raise InputError(f"{path} has {size:,} bytes, more than the {MOST_BYTES:,} of any such file.")
            return decoded(file.read(), path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None


def sync_folder(folder: Path) -> None:
    """Have the names in a folder, and so a rename there, reach the disk; not every system can be asked for that."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
