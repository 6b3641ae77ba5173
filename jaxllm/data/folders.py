"""The files of a folder as a corpus: symbolic links are followed, nothing is read twice, what is left out is named.

`find -L` and Python's `os.walk(followlinks=True)` read a folder again under each of its names, and the latter does not
end where a link leads back. Here each folder is read once, under the first of its names, and so is each file.
"""

import errno
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

from jaxllm.data.own_files import is_own_file, is_run
from jaxllm.data.shards import is_prepared
from jaxllm.utils.errors import InputError, Note, printable

NAMED = 5  # of those left out for a reason; the others are counted
FOLDER, TEXT = "folder", "text"
OWN = "because jaxllm itself wrote it"
AGAIN = "because it is read under another name"
NOWHERE = "because a symbolic link leads nowhere"
SPECIAL = "because it is no regular file"


def files(source: str) -> Iterator[Path]:
    """The file itself, or those of the folder in the order of their paths, without hidden ones, as they are asked for.

    Warns at the end with a Note of what was left out: what jaxllm wrote (`own_files`, prepared data), links that lead
    nowhere, other names of what is read, pipes and devices. Raises InputError for a source that cannot be read, or is
    itself a run or prepared data.
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
    """The files of a folder, and the reasons for what is left out.

    It remembers the real paths of folders and of files read by the name of a link, not of all files.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.folders: set[str] = set()
        self.linked: set[str] = set()
        self.left_out: dict[str, tuple[int, list[str]]] = {}  # for each reason how many, and the first names

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
            more = f" and {number - NAMED:,} more" if number > NAMED else ""
            left_out = f"{', '.join(names)}{more}"
            warnings.warn(Note(f"left out of {printable(self.source)}, {reason}: {left_out}."), stacklevel=2)

    def _leave_out(self, entry: "os.DirEntry[str]", reason: str) -> None:
        number, names = self.left_out.get(reason, (0, []))
        self.left_out[reason] = number + 1, names + [printable(str(Path(entry.path)))] * (number < NAMED)

    def _inside(self, folder: str) -> Iterator["os.DirEntry[str]"]:
        self.folders.add(os.path.realpath(folder))
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
        return iter(sorted(shown, key=lambda entry: entry.name))

    def _what_is(self, entry: "os.DirEntry[str]") -> str:
        """FOLDER or TEXT where it is to be read, or else the reason why it is not. Raises OSError."""
        try:
            mode = os.stat(entry.path).st_mode
        except OSError as error:
            if not entry.is_symlink() or error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
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
        """Whether the file is read under another name; a link's target is remembered."""
        if not entry.is_symlink():
            return bool(self.linked) and os.path.realpath(entry.path) in self.linked
        real = os.path.realpath(entry.path)
        folder, name = os.path.split(real)
        if real in self.linked or (folder in self.folders and not name.startswith(".")):
            return True
        self.linked.add(real)
        return False
