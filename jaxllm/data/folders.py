"""The files of a folder as a corpus: symbolic links are followed, nothing is read twice, omissions are reported.

Each folder and each file is read once, under the first of its names, even where links form a cycle. (Python's
`os.walk(followlinks=True)` does not end there.)
"""

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from jaxllm.data.own_output import is_own_file, is_run
from jaxllm.data.shards import is_prepared
from jaxllm.utils.errors import InputError, Note, printable

MOST_NAMED = 5  # of the files left out for one reason; the others are counted
FOLDER, TEXT = "folder", "text"
WINDOWS_LINK_CYCLE = 1921  # its error for a link that leads to itself, where POSIX has ELOOP
OWN = "because jaxllm itself wrote it"
AGAIN = "because it is read under another name"
NOWHERE = "because a symbolic link leads nowhere"
SPECIAL = "because it is no regular file"


def files(source: str) -> Iterator[Path]:
    """The file itself, or the files of the folder in the order of their paths, without hidden ones.

    They are found as they are asked for. At the end a Note reports what was left out: files that jaxllm wrote
    (`own_output`, prepared data), links that lead nowhere, further names of a file or folder, pipes and devices. Raises
    InputError for a source that cannot be read, and for one that is itself a run or prepared data.
    """
    try:
        if not os.path.isdir(source):
            yield Path(source)
            return
        if own := "a run" if is_run(source) else "prepared data" if is_prepared(source) else "":
            raise InputError(
                f"data.source {source!r} holds {own} of jaxllm, no text; name a text or a folder of texts."
            )
        yield from _Walk(source)
    except OSError as error:
        raise InputError(f"cannot read data.source {source!r}: {error}.") from None


class _Walk:
    """The files of a folder, and what is left out for which reason.

    The real paths of folders, and of files read through a link, are kept in memory, but not those of all files.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.folders: set[str] = set()
        self.linked: set[str] = set()
        self.left_out: dict[str, tuple[int, list[str]]] = {}  # reason -> how many, and the first names

    def __iter__(self) -> Iterator[Path]:
        open_folders = [self._inside(self.source)]
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
                continue
            what = self._what_is(entry)
            if what == FOLDER:
                open_folders.append(self._inside(entry.path))
            elif what == TEXT:
                yield Path(entry.path)
            else:
                self._leave_out(entry, what)
        for reason, (number, names) in self.left_out.items():
            more = f" and {number - MOST_NAMED:,} more" if number > MOST_NAMED else ""
            left_out = f"{', '.join(names)}{more}"
            warnings.warn(Note(f"left out of {printable(self.source)}, {reason}: {left_out}."), stacklevel=2)

    def _leave_out(self, entry: "os.DirEntry[str]", reason: str) -> None:
        number, names = self.left_out.get(reason, (0, []))
        self.left_out[reason] = number + 1, names + [printable(str(Path(entry.path)))] * (number < MOST_NAMED)

    def _inside(self, folder: str) -> Iterator["os.DirEntry[str]"]:
        self.folders.add(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
        return iter(sorted(visible, key=lambda entry: entry.name))

    def _what_is(self, entry: "os.DirEntry[str]") -> str:
        """FOLDER or TEXT for an entry to be read, else the reason to leave it out. Raises OSError."""
        try:
            mode = os.stat(entry.path).st_mode
        except OSError as error:
            cycle = error.errno == errno.ELOOP or getattr(error, "winerror", None) == WINDOWS_LINK_CYCLE
            if not entry.is_symlink() or not (cycle or error.errno in (errno.ENOENT, errno.ENOTDIR)):
                raise
            return NOWHERE
        if stat.S_ISDIR(mode):
            if os.path.realpath(entry.path) in self.folders:
                return AGAIN
            return OWN if is_run(entry.path) or is_prepared(entry.path) else FOLDER
        if not stat.S_ISREG(mode):
            return SPECIAL
        if is_own_file(entry.path):
            return OWN
        return AGAIN if self._is_read_elsewhere(entry) else TEXT

    def _is_read_elsewhere(self, entry: "os.DirEntry[str]") -> bool:
        """Whether the file is read under another name. A link's target is remembered."""
        if not entry.is_symlink():
            return bool(self.linked) and os.path.realpath(entry.path) in self.linked
        real = os.path.realpath(entry.path)
        folder, name = os.path.split(real)
        if real in self.linked or (folder in self.folders and not name.startswith(".")):
            return True
        self.linked.add(real)
        return False
