"""Reading ids on disk: shards of little-endian uint16 or uint32 without a header, and the index that describes them.

`index.json`, written last, holds the dtype, the counts, the sha256 of each shard and the tokenizer's fingerprint. So a
file that was cut short, or belongs to another tokenizer or width, is noticed.
"""

import hashlib
import mmap
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from jaxllm.data.id_sequences import JoinedIds
from jaxllm.data.own_output import TOKENIZER_FORMAT, format_of
from jaxllm.data.windows import Ids
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.processes import usable_cores
from jaxllm.utils.utf8 import without_mark

FORMAT: Literal["jaxllm shards"] = "jaxllm shards"
VERSION: Literal[1] = 1
INDEX, PROGRESS, TOKENIZER = "index.json", "progress.json", "tokenizer.json"
TRAIN, VALIDATION = "train", "validation"
NAME = re.compile(r"[\w-][\w.-]{0,99}", re.ASCII)  # of a shard, so that none leads out of the folder on any system
MOST_MAPPED = 64  # shards; more could reach the limit on open files
READS_BEFORE_RELEASE = 256  # each read may bring in from 64 KiB to 2 MiB around it; then the pages are released


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of ids."""

    file: str
    count: Annotated[int, Meta(ge=-(2**62), le=2**62)]
    sha256: str


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `index.json` holds."""

    format: Literal["jaxllm shards"]
    version: Literal[1]
    dtype: Literal["uint16", "uint32"]
    tokenizer: str  # the fingerprint of the tokenizer, which is saved in the same folder
    vocab_size: int
    separator: int | None  # the end token, before every document but a split's first; None without one
    characters: int  # of all the text
    documents: dict[str, int]  # of each split
    splits: dict[str, list[Shard]]

    @property
    def sha256(self) -> str:
        """The sha256 of the index, and so of the shards whose sha256 it holds."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def is_prepared(source: str) -> bool:
    """Whether it is a folder of shards, finished or not, even if its index is damaged."""
    found = [path for name in (INDEX, PROGRESS) if os.path.isfile(path := os.path.join(source, name))]
    named = (FORMAT, f"{FORMAT} in progress")
    return any(format_of(path) in named for path in found) or (
        bool(found) and format_of(os.path.join(source, TOKENIZER)) == TOKENIZER_FORMAT
    )


def read_index(folder: str | Path) -> Index:
    """The index of a folder. Raises InputError for a damaged index, and for a shard with a wrong name or size."""
    folder = Path(folder)
    path = folder / INDEX
    try:
        index = msgspec.json.decode(without_mark(read_file(path), path), type=Index)
    except FileNotFoundError:
        unfinished = (folder / PROGRESS).exists()
        raise InputError(
            f"{folder} is not finished: give the same `jaxllm data prepare` command again to continue."
            if unfinished
            else f"{folder} holds no prepared data: it has no {INDEX}."
        ) from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is no index of version {VERSION}, or damaged: {printable(str(error))}.") from None
    for shard in (shard for split in index.splits.values() for shard in split):
        _check_size(folder, shard, np.dtype(index.dtype).itemsize)
    return index


def _check_size(folder: Path, shard: Shard, width: int) -> None:
    if not NAME.fullmatch(shard.file) or shard.count < 1:
        raise InputError(f"{folder / INDEX} is damaged: it names a shard {shown(shard.file)} of {shard.count} ids.")
    path = folder / shard.file
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read the shard {path}: {error.strerror}; prepare the data again.") from None
    if size != shard.count * width:
        raise InputError(
            f"the shard {path} has {size:,} bytes, but its {shard.count:,} ids make {shard.count * width:,}: it was "
            "cut short or changed; prepare the data again."
        )


def verify(folder: str | Path, index: Index, progress: Callable[[int], None] | None = None) -> None:
    """Check each shard's sha256, on all cores. Raises InputError for a wrong one.

    `progress` is called with the number of bytes read so far.
    """
    folder = Path(folder)
    shards = [shard for split in index.splits.values() for shard in split]
    done = 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        for shard, digest in zip(shards, pool.map(lambda shard: _sha256(folder / shard.file), shards), strict=True):
            if digest != shard.sha256:
                raise InputError(
                    f"the shard {folder / shard.file} is damaged: its sha256 is {digest[:12]}..., not "
                    f"{printable(shard.sha256[:12])}...; prepare the data again."
                )
            done += shard.count * np.dtype(index.dtype).itemsize
            if progress:
                progress(done)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot read the shard {path}: {error.strerror}.") from None


class MappedFiles:
    """Files mapped into memory as they are needed, at most MOST_MAPPED at a time.

    Pages that were read are released every READS_BEFORE_RELEASE reads, so that the process does not grow with what it
    reads. (They stay in the system's cache. A system without `madvise`, such as Windows, releases them by itself.)
    Threads may read at the same time.
    """

    def __init__(self) -> None:
        self._maps: OrderedDict[Path, mmap.mmap] = OrderedDict()
        self._lock, self._reads = threading.Lock(), 0

    def __call__(self, path: Path) -> mmap.mmap:
        """The file's bytes, to be used immediately and only once."""
        with self._lock:
            if path not in self._maps:
                if len(self._maps) == MOST_MAPPED:
                    self._maps.popitem(last=False)
                with path.open("rb") as file:
                    self._maps[path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    if hasattr(mmap, "MADV_RANDOM"):
                        self._maps[path].madvise(mmap.MADV_RANDOM)
            self._maps.move_to_end(path)
            self._reads += 1
            if self._reads % READS_BEFORE_RELEASE == 0 and hasattr(mmap, "MADV_DONTNEED"):
                for mapped in self._maps.values():
                    mapped.madvise(mmap.MADV_DONTNEED)
            return self._maps[path]


@dataclass(frozen=True)
class ShardIds:
    """The ids of one shard: `ids[start:stop]` is a view of the file."""

    path: Path
    dtype: np.dtype[Any]
    count: int
    files: MappedFiles

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, wanted: slice, /) -> Ids:
        return np.frombuffer(self.files(self.path), self.dtype, self.count)[wanted]


def open_split(folder: str | Path, index: Index, split: str) -> JoinedIds:
    """The ids of "train" or "validation"."""
    files, dtype = MappedFiles(), np.dtype(index.dtype).newbyteorder("<")
    shards = index.splits.get(split, [])
    return JoinedIds([ShardIds(Path(folder) / shard.file, dtype, shard.count, files) for shard in shards])
