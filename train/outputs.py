"""Files and folders that a command writes where its user says: checked before the work, whole once they appear."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxllm.utils.errors import InputError


def check_output(option: str, path: str | None, endings: tuple[str, ...]) -> None:
    """Raises InputError unless a file with one of these endings can be written, or replaced, at `path`; None passes.

    The ending is checked so that `--json CONFIG.toml`, without its FILE, does not overwrite the config.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in endings:
        raise InputError(f"{option} {path}: the name of the file must end in {' or '.join(endings)}.")
    if (Path(path).parent / "config.toml").exists():
        raise InputError(f"{option} {path}: {Path(path).parent} is a run folder, whose files stay as they are.")
    if Path(path).is_dir():
        raise InputError(f"{option} {path}: {path} is a folder.")
    if not Path(path).parent.is_dir():
        raise InputError(f"{option} {path}: there is no folder {Path(path).parent}.")
    if not os.access(Path(path).parent, os.W_OK | os.X_OK):
        raise InputError(f"{option} {path}: its folder cannot be written into.")


def check_new(path: Path) -> None:
    """Raises InputError unless a file can be made at the place that --out names."""
    if path.exists():
        raise InputError(f"{path} exists already; choose another name with --out.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: there is no folder {path.parent}; make it first.")


def check_new_folder(path: Path) -> None:
    """Raises InputError unless a folder can be made at the place that --out names; an empty one may be there."""
    try:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} is there already; choose another folder with --out.")
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be used: {error.strerror}.") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to write into, renamed to `path` at the end; after an exception there is none.

    Raises InputError where `path` exists and is not an empty folder, or where nothing can be written.
    """
    check_new_folder(path)
    temporary = _beside(path)
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())  # the rights that mkdir would have given
        os.replace(temporary, path)  # it can replace an empty folder, and nothing else
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """The path of a file to write, in a temporary folder, renamed to `path` at the end; after an exception there is
    none.

    Raises InputError where `path` exists or nothing can be written.
    """
    check_new(path)
    temporary = _beside(path)
    try:
        yield temporary / path.name
        os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path) -> Path:
    """A new temporary folder in the folder of `path`, which is made. Raises InputError where that fails."""
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write into {parent}: {error}; choose another folder with --out.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
