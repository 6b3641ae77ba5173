"""A corpus as a stream of documents: text files, folders and JSON lines, gzipped or not, and named corpora.

A document is an iterator over chunks of about a million characters, so a document of a terabyte needs no more memory
than one of a page. Errors name the file and the line or byte.
"""

import codecs
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from jaxllm.data.folders import files
from jaxllm.data.json_lines import json_lines
from jaxllm.data.sources import (
    NAMED_CORPORA,
    PYTHON_DOCS,
    PYTHON_STDLIB,
    named_file,
    python_topics,
    stdlib_files,
    unknown_source,
)
from jaxllm.tokenizers.chunks import LONGEST_CHUNK, chunk_text, rechunk
from jaxllm.utils.errors import InputError, printable
from jaxllm.utils.files import open_file
from jaxllm.utils.utf8 import not_utf8, to_utf8, without_mark

READ_SIZE = 2**20  # bytes read at once
JSON_LINES = (".jsonl", ".ndjson")


class Document(NamedTuple):
    """One text of a corpus, in chunks. They are never empty, and must be read before the next document is asked for."""

    name: str  # for messages
    chunks: Iterator[str]


def read_documents(sources: Sequence[str], field: str = "text") -> Iterator[Document]:
    """The documents of all sources, in order.

    A source is "python-docs" (a document is a topic), "python-stdlib" (a document is a module), a named corpus, a file
    or a folder (see `jaxllm.data.folders.files`). A file is one document. In a file whose name ends in .jsonl or
    .ndjson each line is one, whose text is under `field`. Files whose names end in .gz are unpacked first. The endings
    may be in capitals. Empty documents are left out. Raises InputError for a source that is missing, damaged or not
    UTF-8.
    """
    check_sources(sources)
    for source in sources:
        if source == PYTHON_DOCS:
            yield from (Document(name, iter([text])) for name, text in python_topics())
        elif source == PYTHON_STDLIB:
            for path in stdlib_files():
                yield from _of_file(path, field)
        elif source in NAMED_CORPORA:
            yield from _of_file(named_file(source), field)
        else:
            for path in files(source):
                yield from _of_file(path, field)


def check_sources(sources: Sequence[str]) -> None:
    """Raises InputError for a source that is not a named corpus and does not exist. No source is read."""
    for source in sources:
        if source in (PYTHON_DOCS, PYTHON_STDLIB, *NAMED_CORPORA):
            continue
        if not source:
            raise InputError("data.source is empty; name a corpus, a text file or a folder.")
        try:
            os.stat(source)
        except FileNotFoundError:
            raise unknown_source(source) from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read data.source {source!r}: {error}.") from None


def json_lines_of(path: str | Path) -> Iterator[tuple[str, Any]]:
    """The JSON value of each line of a file that is not empty, after the words "line N of FILE".

    A file whose name ends in .gz is unpacked first. Raises InputError for a file that is missing, damaged or not UTF-8,
    and for a line that is not JSON.
    """
    with _reading(Path(path)) as file:
        yield from json_lines(file, str(path))


def _of_file(path: Path, field: str) -> Iterator[Document]:
    name = str(path)
    with _reading(path) as file:
        if name.lower().removesuffix(".gz").endswith(JSON_LINES):
            yield from _of_lines(file, name, field)
        else:
            yield from _of_text(file, name)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file, unpacked where it is gzipped. What goes wrong while it is read becomes an InputError."""
    name = str(path)
    try:
        with _opened(path) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{name} is a damaged gzip file ({error}); fetch or pack it again.") from None
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror or error}.") from None


def _opened(path: Path) -> BinaryIO:
    file = open_file(path)  # which refuses pipes and devices
    if path.suffix.lower() != ".gz":
        return file
    file.close()
    return io.BufferedReader(gzip.open(path, "rb"))


def _of_text(file: BinaryIO, name: str) -> Iterator[Document]:
    chunks = rechunk(_decoded_blocks(file, name), chunk_text, LONGEST_CHUNK)
    first = next(chunks, None)
    if first is not None:
        yield Document(name, chain([first], chunks))


def _decoded_blocks(file: BinaryIO, name: str) -> Iterator[str]:
    first = file.read(READ_SIZE)
    block = without_mark(first, name)
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), len(first) - len(block)
    while True:
        pending = len(decoder.getstate()[0])  # bytes of a character that the end of the last block cut
        try:
            yield decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise not_utf8(name, error, offset - pending) from None
        if not block:
            return
        offset += len(block)
        block = file.read(READ_SIZE)


def _of_lines(file: BinaryIO, name: str, field: str) -> Iterator[Document]:
    for where, content in json_lines(file, name):
        if text := _field(content, where, field):
            yield Document(where, chunk_text(text))


def _field(content: Any, where: str, field: str) -> str:
    text = content.get(field) if isinstance(content, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{where} has no text under {field!r}{_others(content)}.")
    return checked_text(text, where)


def checked_text(text: str, where: str) -> str:
    """The text. Raises InputError that begins with `where` for a lone surrogate."""
    try:
        to_utf8(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return text


def _others(content: Any) -> str:
    """The fields that hold text, as the end of a sentence."""
    fields = content.items() if isinstance(content, dict) else ()
    found = [printable(key, 40) for key, value in fields if isinstance(value, str)]
    names = ", ".join(found[:8])
    return f"; its texts are {names}: name one with --field, or in a config with data.field" if found else ""


def read_source(source: str, field: str = "text") -> str:
    """All documents of a source as one text, joined by newlines (the topics of "python-docs" by two).

    Raises InputError as `read_documents` does, and for a source without text.
    """
    if source == PYTHON_DOCS:
        return "\n\n".join(text for _, text in python_topics()) + "\n"
    text = "\n".join("".join(document.chunks) for document in read_documents([source], field))
    if not text:
        raise InputError(f"data.source {source!r} holds no text.")
    return text
