"""Writing shards: a corpus is tokenized in parallel, and every part of it that is on disk is recorded.

The corpus is divided into jobs by its text alone. After each JOBS_PER_SHARD jobs the shards are written, then
`progress.json` records them, and the same command continues after the last of them. The result is the same for any
number of processes and interruptions.
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
from jaxllm.tokenizers.chunks import CHUNK, rechunk
from jaxllm.tokenizers.special_tokens import END_OF_TEXT
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import read_file, replace_file
from jaxllm.utils.processes import check_processes, in_processes
from jaxllm.utils.utf8 import without_mark

JOBS_PER_SHARD = 128  # about 128 million characters, whose ids take some 60 MB
DECIDING = 2**16  # characters at a document's beginning that decide its split


class Settings(msgspec.Struct, frozen=True):
    """What the shards depend on besides the text itself."""

    sources: list[str]
    field: str
    validation: float
    tokenizer: str  # fingerprint
    end_token: int | None = None  # between documents, unless it is `<|endoftext|>`, the only one of older versions


class Progress(msgspec.Struct, frozen=True):
    """The content of `progress.json`: how much is done, and what the index will say of it."""

    format: Literal["jaxllm shards in progress"]
    version: Literal[1]
    settings: Settings
    jobs: int = msgspec.field(name="loads")  # whose ids are in the shards
    sha256: str  # of their text
    characters: int
    documents: dict[str, int]
    splits: dict[str, list[Shard]]


class DocumentChunk(NamedTuple):
    """A part of a document."""

    split: str
    start: int  # characters of the document before it
    text: str


Job = list[DocumentChunk]  # about CHUNK characters: the work given to a process at a time


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
    it stays in its split when data are added, and copies of it are in the same one. Every document but the first of a
    split follows the tokenizer's separator. Memory does not depend on the size of the corpus. `progress` is called with
    the number of characters so far. If `out` holds an unfinished preparation with the same settings, it is continued.
    Raises InputError for bad settings or text, for an `out` that holds anything else, and for a text that has changed
    since it was begun; OSError for a full disk, after which the same call continues.
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
    jobs = _jobs(read_documents(sources, field), tokenizer, validation)
    _skip(jobs, done, out)
    encoded = in_processes(_encode, jobs, processes, _set_tokenizer, (tokenizer.kind, tokenizer.to_dict()))
    encoded = _reported(encoded, progress, done.characters)
    while results := list(islice(encoded, JOBS_PER_SHARD)):
        done = _write(out, done, results, tokenizer)
    return _finish(out, done, tokenizer)


def _reported(
    encoded: Iterator["Encoded"], progress: Callable[[int], None] | None, characters: int
) -> Iterator["Encoded"]:
    for result in encoded:
        characters += result.characters
        if progress:
            progress(characters)
        yield result


def _other_end_token(tokenizer: Tokenizer) -> int | None:
    end = tokenizer.end_of_text
    return None if end is None or tokenizer.decode([end]) == END_OF_TEXT else end


def _absolute(source: str) -> str:
    return os.path.abspath(source) if os.path.exists(source) else source


def _begin(out: Path, settings: Settings) -> Progress:
    """The recorded progress, or that of a new preparation. Raises InputError where `out` holds anything else."""
    path = out / PROGRESS
    try:
        out.mkdir(parents=True, exist_ok=True)
        if path.exists():
            return _resumed(path, settings)
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


def _resumed(path: Path, settings: Settings) -> Progress:
    try:
        done = msgspec.json.decode(without_mark(read_file(path), path), type=Progress)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({printable(str(error))}); delete the folder and begin again.") from None
    if not done.jobs:  # no shard depends on the settings yet
        return msgspec.structs.replace(done, settings=settings)
    for name in Settings.__struct_fields__:
        before, now = getattr(done.settings, name), getattr(settings, name)
        if before != now:
            raise InputError(
                f"{path.parent} was begun with {name} = {shown(before)}, not {shown(now)}; give the same again to go "
                "on, or choose another folder with --out."
            )
    return done


def _jobs(documents: Iterable[Document], tokenizer: Tokenizer, validation: float) -> Iterator[Job]:
    """The corpus in jobs of about CHUNK characters; for one tokenizer the boundaries are always the same."""
    job: Job = []
    length = 0
    for document in documents:
        split, start = "", 0
        for text in rechunk(document.chunks, tokenizer.chunks):
            split = split or _split_of(text, validation)
            job.append(DocumentChunk(split, start, text))
            start, length = start + len(text), length + len(text)
            if length >= CHUNK:
                yield job
                job, length = [], 0
    if job:
        yield job


def _split_of(first: str, validation: float) -> str:
    digest = hashlib.sha256(first[:DECIDING].encode()).digest()
    return VALIDATION if int.from_bytes(digest[:8], "big") < validation * 2**64 else TRAIN


def _skip(jobs: Iterator[Job], done: Progress, out: Path) -> None:
    """Read past the text that is in the shards already. Raises InputError if it is not the same text."""
    n, digest = 0, ""
    for job in islice(jobs, done.jobs):
        n, digest = n + 1, _chained(digest, _digest(job))
    if (n, digest) != (done.jobs, done.sha256):
        raise InputError(f"the text has changed since {out} was begun; delete that folder and begin again.")


def _digest(job: Job) -> str:
    return hashlib.sha256(b"".join(chunk.text.encode() for chunk in job)).hexdigest()


def _chained(before: str, digest: str) -> str:
    """The sha256 of all jobs, from that of the jobs before and that of the next."""
    return hashlib.sha256((before + digest).encode()).hexdigest()


class Encoded(NamedTuple):
    """The result of a job."""

    ids: dict[str, Ids]  # of each split
    documents: dict[str, int]  # that begin in the job, of each split
    characters: int
    sha256: str  # of the text


_tokenizer: Tokenizer  # of a worker process


def _set_tokenizer(kind: str, fields: dict[str, Any]) -> None:
    global _tokenizer
    _tokenizer = KINDS[kind].from_dict(fields)


def _encode(job: Job) -> Encoded:
    """The ids of a job, with the separator before every document; `_write` removes the first one."""
    separator, dtype = separator_of(_tokenizer), dtype_for(_tokenizer.vocab_size)
    ids: dict[str, Ids] = {}
    for split in (TRAIN, VALIDATION):
        parts = [
            np.array(separator * (chunk.start == 0) + _tokenizer.encode_chunk(chunk.text, chunk.start), dtype)
            for chunk in job
            if chunk.split == split
        ]
        ids[split] = np.concatenate([np.empty(0, dtype), *parts])
    documents = {split: sum(chunk.start == 0 for chunk in job if chunk.split == split) for split in ids}
    return Encoded(ids, documents, sum(len(chunk.text) for chunk in job), _digest(job))


def separator_of(tokenizer: Tokenizer) -> list[int]:
    """The ids between two documents: the tokenizer's end token or, without one, a newline, as between files in memory.

    Empty for a character tokenizer without a newline.
    """
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    no_newline = isinstance(tokenizer, CharTokenizer) and "\n" not in tokenizer.characters
    return [] if no_newline else tokenizer.encode_chunk("\n", 1)


def dtype_for(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The narrower of uint16 and uint32 that holds all ids."""
    return "uint16" if vocab_size <= 2**16 else "uint32"


def _write(out: Path, done: Progress, results: list[Encoded], tokenizer: Tokenizer) -> Progress:
    """Write the shards of these jobs, then the progress that includes them."""
    splits, documents, digest = dict(done.splits), dict(done.documents), done.sha256
    for split in (TRAIN, VALIDATION):
        ids = np.concatenate([result.ids[split] for result in results])
        if not documents[split]:
            ids = ids[len(separator_of(tokenizer)) :]
        documents[split] += sum(result.documents[split] for result in results)
        if len(ids):
            content = ids.astype(ids.dtype.newbyteorder("<")).tobytes()
            shard = Shard(f"{split}-{len(splits[split]):05}.bin", len(ids), hashlib.sha256(content).hexdigest())
            replace_file(out / shard.file, content)
            splits[split] = [*splits[split], shard]
    for result in results:
        digest = _chained(digest, result.sha256)
    done = msgspec.structs.replace(
        done, jobs=done.jobs + len(results), sha256=digest, documents=documents, splits=splits,
        characters=done.characters + sum(result.characters for result in results),
    )  # fmt: skip
    replace_file(out / PROGRESS, msgspec.json.encode(done))
    return done


def _finish(out: Path, done: Progress, tokenizer: Tokenizer) -> Index:
    """Write the index and delete the progress. Raises InputError for a corpus without text."""
    if not done.characters:
        raise InputError(f"{', '.join(done.settings.sources)} holds no text.")
    index = Index(
        FORMAT, VERSION, dtype_for(tokenizer.vocab_size), done.settings.tokenizer, tokenizer.vocab_size,
        tokenizer.end_of_text, done.characters, done.documents, done.splits,
    )  # fmt: skip
    replace_file(out / INDEX, msgspec.json.format(msgspec.json.encode(index), indent=1))
    (out / PROGRESS).unlink()
    return read_index(out)
