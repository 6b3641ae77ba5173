"""A learner's files as modules of this process, for training; a check runs them in a process of its own."""

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file

from ...errors import UserCodeError, reason
from ..course import ORDER, file_name, piece
from ..folder import LearnFolder

Functions = dict[str, Callable[..., Any]]  # of a piece, by their names


def digest_of(folder: LearnFolder, name: str) -> str:
    """sha256 of a piece's file and of those that it imports. Raises InputError for one that cannot be read."""
    found = hashlib.sha256()
    for one in [*folder.needed(name), name]:
        folder.require(one)
        try:
            found.update(read_file(folder.file(one)) + b"\0")
        except OSError as error:
            raise InputError(f"{folder.file(one)} cannot be read: {reason(error)}; make it readable.") from None
    return found.hexdigest()


def load(folder: LearnFolder, pieces: Iterable[str]) -> dict[str, Functions]:
    """The functions of each of these pieces by their names.

    Pieces import each other by their file names, so that the folder is on the path of modules from here on. Raises
    UserCodeError for an exception of the learner's files, and InputError for a function that is not there.
    """
    for name in ORDER:  # those of another folder
        sys.modules.pop(file_name(name).removesuffix(".py"), None)
    where = str(folder.path.absolute())
    sys.path[:] = [*(path for path in sys.path if path != where), where]  # last: it hides no package
    functions: dict[str, Functions] = {}
    for name in pieces:
        functions[name] = {}
        with errors_of(folder.path):
            for one in [*folder.needed(name), name]:
                module = _module(folder.file(one))
        for function in piece(name).functions:
            if not callable(found := getattr(module, function.name, None)):
                raise InputError(f"{folder.file(name)} has no function {function.name}; write it as it was.")
            functions[name][function.name] = found
    return functions


def _module(path: Path) -> ModuleType:
    """A piece as the module of its name, from this file, whatever else has the name on the path of modules."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path.absolute())
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_of(error: BaseException, folder: Path) -> list[traceback.FrameSummary]:
    """The lines of the folder's files that an exception passed through, the innermost last."""
    where = folder.absolute()
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == where]
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == where:
        frames = [traceback.FrameSummary(error.filename, error.lineno, "the file", line=error.text or "")]
    return frames


@contextmanager
def errors_of(folder: Path) -> Iterator[None]:
    """Turn an exception that passed through a file of the folder into a UserCodeError, with its lines only."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not (frames := lines_of(error, folder)):
            raise
        raise UserCodeError(error, frames) from None


def check_unchanged(folder: LearnFolder, digests: Mapping[str, str], since: str) -> None:
    """Raises InputError for a piece whose file is not the one of these sha256; `since` says when it was."""
    for name, digest in digests.items():
        if digest_of(folder, name) != digest:
            raise InputError(
                f"{folder.file(name)}, or a piece that it imports, has changed since {since}; run `jaxllm learn "
                "train` again."
            )
