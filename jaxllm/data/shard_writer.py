"""From documents to shards: tokenized in parallel, a stretch of the corpus at a time, each safe before the next.

nanoGPT's and nanochat's scripts begin anew when they are stopped. Here the corpus is cut into stretches by its text
alone; when one's shards are on disk, `progress.json` says so, and the same command goes on after the last of them. What
comes out is the same for any number of processes and of interruptions.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

from jaxllm.data.documents import Document, check_sources, read_documents
from jaxllm.data.shards import (
    FORMAT,
    INDEX,
    PROGRESS,
    TOKENIZER,
    TRAIN,
    VALIDATION,
    VERSION,
    Index,
    Shard,
    read_index,
)
from jaxllm.data.windows import Ids
from jaxllm.tokenizers import KINDS, CharTokenizer, Tokenizer
from jaxllm.tokenizers.base import END_OF_TEXT
from jaxllm.tokenizers.parts import PART, in_parts
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, replace_file, without_mark
from jaxllm.utils.processes import check_processes, in_processes
from jaxllm.utils.validate import printable, shown

STRETCH = 128  # loads, so that a stretch is about 128 million characters, and its shards some 60 MB
DECIDING = 2**16  # characters at a document's beginning that decide its split


class Settings(msgspec.Struct, frozen=True):
    """What the shards depend on, beside the text itself."""

    sources: list[str]
    field: str
    validation: float
    tokenizer: str  # fingerprint
    end_token: int | None = None  # between documents, where it is not `<|endoftext|>`, the only one of older versions


class Progress(msgspec.Struct, frozen=True):
    """What `progress.json` holds: how far it came, and what the index will say so far."""

    format: Literal["jaxllm shards in progress"]
    version: Literal[1]
    settings: Settings
    loads: int  # of the corpus that are in the shards
    sha256: str  # of their text
    characters: int
    documents: dict[str, int]
    splits: dict[str, list[Shard]]


class Piece(NamedTuple):
    """A part of a document."""

    split: str
    start: int  # characters of the document before it
    text: str


Load = list[Piece]  # about PART characters: the work handed to a process


def prepare_shards(
    sources: Sequence[str],
    tokenizer: Tokenizer,
    out: str | Path,
    field: str = "text",
    validation: float = 0.01,
    processes: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Index:
    """Tokenize all documents of the sources (see `read_documents`) into shards in the folder `out`.

    A document goes to the validation split by the sha256 of its first 65,536 characters, with probability `validation`:
    it stays in its split whatever is added, and copies of it do not cross over. Every document but the first of a split
    begins with the tokenizer's separator. Memory does not depend on the size of the corpus. `progress` is told the
    characters so far. Where `out` holds an unfinished preparation of the same settings, it is taken up.
    Raises InputError for bad settings or text, for an `out` with something else in it and when the text has changed
    since; OSError for a full disk, which loses nothing.
    """
    check_processes(processes)
    if not 0 <= validation < 1:
        raise InputError(f"validation is {validation}, but it must be a share from 0 to below 1.")
    out = Path(out)
    check_sources(sources)
    for source in sources:
        if os.path.isdir(source) and out.resolve() == Path(source).resolve():
            raise InputError(f"{out} is the source itself; choose another folder with --out.")
    settings = Settings(
        [_absolute(s) for s in sources], field, validation, tokenizer.fingerprint(), _other_end_token(tokenizer)
    )
    done = _begin(out, settings)
    tokenizer.save(out / TOKENIZER)
    loads = _loads(read_documents(sources, field), tokenizer, validation)
    _skip(loads, done, out)
    encoded = in_processes(_encode, loads, processes, _take, (tokenizer.kind, tokenizer.to_dict()))
    encoded = _told(encoded, progress, done.characters)
    while stretch := list(islice(encoded, STRETCH)):
        done = _write(out, done, stretch, tokenizer)
    return _finish(out, done, tokenizer)


def _told(encoded: Iterator["Encoded"], progress: Callable[[int], None] | None, characters: int) -> Iterator["Encoded"]:
    for load in encoded:
        characters += load.characters
        if progress:
            progress(characters)
        yield load


def _other_end_token(tokenizer: Tokenizer) -> int | None:
    end = tokenizer.end_of_text
    return None if end is None or tokenizer.decode([end]) == END_OF_TEXT else end


def _absolute(source: str) -> str:
    return os.path.abspath(source) if os.path.exists(source) else source


def _begin(out: Path, settings: Settings) -> Progress:
    """What is done already, or a beginning. Raises InputError where `out` holds something else."""
    path = out / PROGRESS
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return _taken_up(path, settings)
        if (out / INDEX).exists():
            raise InputError(f"{out} holds prepared data already; delete it or choose another folder with --out.")
        if any(out.iterdir()):
            raise InputError(f"{out} is not empty; choose another folder with --out.")
    except (FileExistsError, NotADirectoryError):
        raise InputError(f"{out} is a file; choose another folder with --out.") from None
    empty: dict[str, list[Shard]] = {TRAIN: [], VALIDATION: []}
    done = Progress("jaxllm shards in progress", 1, settings, 0, "", 0, {TRAIN: 0, VALIDATION: 0}, empty)
    replace_file(path, msgspec.json.encode(done))
    return done


def _taken_up(path: Path, settings: Settings) -> Progress:
    try:
        done = msgspec.json.decode(without_mark(read_file(path), path), type=Progress)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({printable(str(error))}); delete the folder and begin anew.") from None
    if not done.loads:  # nothing is in the shards yet that other settings would change
        return msgspec.structs.replace(done, settings=settings)
    for name in Settings.__struct_fields__:
        before, now = getattr(done.settings, name), getattr(settings, name)
        if before != now:
            raise InputError(
                f"{path.parent} was begun with {name} = {shown(before)}, not {shown(now)}; give the same again to go "
                "on, or choose another folder with --out."
            )
    return done


def _loads(documents: Iterable[Document], tokenizer: Tokenizer, validation: float) -> Iterator[Load]:
    """The corpus in loads of about PART characters, cut in the same places every time by the same tokenizer."""
    load: Load = []
    length = 0
    for document in documents:
        split, start = "", 0
        for part in in_parts(document.parts, tokenizer.cut):
            split = split or _split_of(part, validation)
            load.append(Piece(split, start, part))
            start, length = start + len(part), length + len(part)
            if length >= PART:
                yield load
                load, length = [], 0
    if load:
        yield load


def _split_of(first: str, validation: float) -> str:
    digest = hashlib.sha256(first[:DECIDING].encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < validation * 2**64 else TRAIN


def _skip(loads: Iterator[Load], done: Progress, out: Path) -> None:
    """Read past what is in the shards already. Raises InputError if it is not the same text."""
    n, digest = 0, ""
    for load in islice(loads, done.loads):
        n, digest = n + 1, _chained(digest, _digest(load))
    if (n, digest) != (done.loads, done.sha256):
        raise InputError(f"the text has changed since {out} was begun; delete that folder and begin anew.")


def _digest(load: Load) -> str:
    return hashlib.sha256(b"".join(piece.text.encode() for piece in load)).hexdigest()


def _chained(before: str, digest: str) -> str:
    """The sha256 of all loads, from that of all before and that of the next."""
    return hashlib.sha256((before + digest).encode()).hexdigest()


class Encoded(NamedTuple):
    """A load as ids, of each split."""

    ids: dict[str, Ids]
    documents: dict[str, int]  # that begin in it
    characters: int
    sha256: str  # of the text


_tokenizer: Tokenizer  # of a worker


def _take(kind: str, fields: dict[str, Any]) -> None:
    global _tokenizer
    _tokenizer = KINDS[kind].from_dict(fields)


def _encode(load: Load) -> Encoded:
    """Every document begins with the separator here; `_write` takes the first one off."""
    separator, dtype = separator_of(_tokenizer), dtype_for(_tokenizer.vocab_size)
    ids: dict[str, Ids] = {}
    for split in (TRAIN, VALIDATION):
        parts = [
            np.array(separator * (piece.start == 0) + _tokenizer.encode_part(piece.text, piece.start), dtype)
            for piece in load
            if piece.split == split
        ]
        ids[split] = np.concatenate([np.empty(0, dtype), *parts])
    documents = {split: sum(piece.start == 0 for piece in load if piece.split == split) for split in ids}
    return Encoded(ids, documents, sum(len(piece.text) for piece in load), _digest(load))


def separator_of(tokenizer: Tokenizer) -> list[int]:
    """What stands between two documents: the tokenizer's end token, or a newline, as between files in memory.

    Nothing for characters without a newline.
    """
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    newline = isinstance(tokenizer, CharTokenizer) and "\n" not in tokenizer.characters
    return [] if newline else tokenizer.encode_part("\n", 1)


def dtype_for(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrower of uint16 and uint32 that holds all ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def _write(out: Path, done: Progress, stretch: list[Encoded], tokenizer: Tokenizer) -> Progress:
    """The stretch's shards, then the progress that counts them in."""
    splits, documents, digest = dict(done.splits), dict(done.documents), done.sha256
    for split in (TRAIN, VALIDATION):
        ids = np.concatenate([load.ids[split] for load in stretch])
        if not documents[split]:
            ids = ids[len(separator_of(tokenizer)) :]
        documents[split] += sum(load.documents[split] for load in stretch)
        if len(ids):
            content = ids.astype(ids.dtype.newbyteorder("<")).tobytes()
            shard = Shard(f"{split}-{len(splits[split]):05}.bin", len(ids), hashlib.sha256(content).hexdigest())
            replace_file(out / shard.file, content)
            splits[split] = [*splits[split], shard]
    for load in stretch:
        digest = _chained(digest, load.sha256)
    done = msgspec.structs.replace(
        done, loads=done.loads + len(stretch), sha256=digest, documents=documents, splits=splits,
        characters=done.characters + sum(load.characters for load in stretch),
    )  # fmt: skip
    replace_file(out / PROGRESS, msgspec.json.encode(done))
    return done


def _finish(out: Path, done: Progress, tokenizer: Tokenizer) -> Index:
    """Write the index and take away the progress. Raises InputError where there was no text."""
    if not done.characters:
        raise InputError(f"{', '.join(done.settings.sources)} holds no text.")
    index = Index(
        FORMAT, VERSION, dtype_for(tokenizer.vocab_size), done.settings.tokenizer, tokenizer.vocab_size,
        tokenizer.end_of_text, done.characters, done.documents, done.splits,
    )  # fmt: skip
    replace_file(out / INDEX, msgspec.json.format(msgspec.json.encode(index), indent=1))
    (out / PROGRESS).unlink()
    return read_index(out)
