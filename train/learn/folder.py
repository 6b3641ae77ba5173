"""A learner's folder: `course.json`, and a file for each piece. No file in it is ever overwritten."""

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from jaxllm.utils.errors import InputError, nearest, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.utf8 import decoded

from .course import ORDER, file_name

VERSION = 1  # of the course; a later one has further files
LANGUAGES = ("numpy", "jax", "torch")
SETTINGS = "course.json"
IMPORTS = re.compile(r"^[ \t]*(?:from|import)[ \t]+p\d\d_(\w+)", re.MULTILINE)


@dataclass(frozen=True)
class LearnFolder:
    """A folder that `jaxllm learn start` has made."""

    path: Path
    language: str

    @classmethod
    def open(cls, path: str | Path) -> "LearnFolder":
        """Read `course.json`. Raises InputError if it is no such folder, or one of a later version."""
        path = Path(path)
        settings = path / SETTINGS
        start = f"`jaxllm learn start {shlex.quote(str(path))}` makes one"
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file, but a course is a folder; give --dir.")
        if not path.is_dir():
            raise InputError(f"{path} is no folder; {start}.")
        if (settings.exists() or settings.is_symlink()) and not settings.is_file():
            raise InputError(f"{settings} is no file; move it away, and `jaxllm learn start` writes one.")
        if not settings.is_file():
            raise InputError(f"{path} is no course folder, because it has no {SETTINGS}; {start}, or give --dir.")
        try:
            content = json.loads(decoded(read_file(settings), str(settings)))
            version, language = content["version"], content["language"]
            if type(version) is not int or version < 1 or language not in LANGUAGES:
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f'{settings} is damaged; write {{"version": {VERSION}, "language": "numpy"}} into it, or one of '
                f"{', '.join(LANGUAGES[1:])}."
            ) from None
        if version > VERSION:
            raise InputError(
                f"{settings} is of version {version} of the course, and this jaxllm has version {VERSION}; install a "
                "newer jaxllm."
            )
        return cls(path, language)

    def file(self, name: str) -> Path:
        """The file of a piece."""
        return self.path / file_name(name)

    def require(self, name: str) -> None:
        """Raises InputError if the file of a piece is missing."""
        file = self.file(name)
        if not file.is_file():
            if file.exists() or file.is_symlink():
                raise InputError(f"{file} is no file; move it away, and `jaxllm learn start` writes one.")
            start = f"jaxllm learn start {shlex.quote(str(self.path))}"
            raise InputError(f"{file} is missing; `{start}` writes it, and keeps all others.")

    def needed(self, name: str) -> list[str]:
        """All earlier pieces that a piece imports, directly or through others."""
        found, left = set[str](), self.imported(name)
        while left:
            if (one := left.pop()) not in found:
                found.add(one)
                left += self.imported(one)
        return [other for other in ORDER if other in found]

    def imported(self, name: str) -> list[str]:
        """The earlier pieces that the file of a piece imports. The file is read, not run."""
        try:
            text = read_file(self.file(name)).decode(errors="replace")
        except OSError:
            return []
        before = ORDER[: ORDER.index(name)]
        return [other for other in before if other in IMPORTS.findall(text)]


def piece_name(given: str) -> str:
    """The name of a piece given by name, file or number. Raises InputError with the nearest names.

    >>> piece_name("11"), piece_name("p11_causal_attention.py"), piece_name("causal_attention")
    ('causal_attention', 'causal_attention', 'causal_attention')
    """
    if given.isdecimal():
        if not 1 <= int(given) <= len(ORDER):
            raise InputError(f"there is no piece {shown(given)}; the course has the pieces 1 to {len(ORDER)}.")
        return ORDER[int(given) - 1]
    name = re.sub(r"^p\d\d_|\.py$", "", given.lower())
    if name not in ORDER:
        raise InputError(f"there is no piece {shown(given)}; {nearest(name, ORDER)}")
    return name
