"""A user's functions: the file that `--code` names, and a config with its functions in place of their names.

Code runs from nowhere else. A run folder keeps a copy of the file to compare with, and never runs it.
"""

import dataclasses
import difflib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from jaxllm.utils.errors import InputError, nearest, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.ideas import Idea, check_given, is_reference

from .config import RunConfig
from .errors import UserCodeError, reason


@dataclass(frozen=True)
class Code:
    """A user's file that has been run: its text, and what it defines."""

    path: Path
    text: bytes
    names: dict[str, Any]  # that it defines

    @property
    def sha256(self) -> str:
        """Of the text."""
        return hashlib.sha256(self.text).hexdigest()

    def idea(self, reference: str, field: str) -> Idea:
        """The function that a config's value "FILE.py:NAME" means. Raises InputError if it is not in this file."""
        file, _, name = reference.partition(":")
        if file != self.path.name:
            raise InputError(f"{field} is {reference!r}, but --code is {self.path}; name the right file, or {file}.")
        if not callable(self.names.get(name)):
            own = {key: getattr(value, "__module__", "") for key, value in self.names.items() if callable(value)}
            defined = [key for key, module in own.items() if module == self.names["__name__"] and key[0] != "_"]
            what = "is no function" if name in self.names else "is not"
            raise InputError(f"{field} is {reference!r}, but {name} {what} in {self.path}; {nearest(name, defined)}")
        return Idea(self.names[name], reference, self.sha256, self.names)


def load_code(path: str | None) -> Code | None:
    """Run a user's file, and return what it defines; None without a path.

    Raises InputError if it cannot be read, UserCodeError for an exception that it raises.
    """
    if path is None:
        return None
    file = Path(path).absolute()
    try:
        text = read_file(file)
    except OSError as error:
        raise InputError(f"--code {path} cannot be read: {reason(error)}.") from None
    spec = importlib.util.spec_from_file_location(f"jaxllm_ideas_{file.stem}", file)
    if file.suffix != ".py" or spec is None or spec.loader is None:
        raise InputError(f"--code is {path}, but it must be a Python file, NAME.py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Linen and dataclasses look a class's module up
    with users_errors(file):
        spec.loader.exec_module(module)
    return Code(Path(path), text, vars(module))


@contextmanager
def users_errors(file: Path) -> Iterator[None]:
    """Turn an exception that passed through a user's file into a UserCodeError, with the lines of that file only."""
    where = str(file.absolute())
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == where]
        if isinstance(error, SyntaxError) and error.filename == where:
            frames = [traceback.FrameSummary(where, error.lineno, "the file", line=error.text or "")]
        if not frames:
            raise
        raise UserCodeError(error, frames) from None


def references(config: RunConfig) -> Iterator[tuple[str, str, Any]]:
    """The fields of a config that hold a function or the name of one: ("model", "activation", "ideas.py:f")."""
    for section in dataclasses.fields(config):
        part = getattr(config, section.name)
        hints = get_type_hints(type(part))
        for field in dataclasses.fields(part):
            value = getattr(part, field.name)
            if Idea in get_args(hints[field.name]) and (isinstance(value, Idea) or is_reference(value)):
                yield section.name, field.name, value


def resolve(config: RunConfig, code: Code | None) -> RunConfig:
    """The config with the functions of `code` in place of their names.

    Raises InputError for a function that is not there, for code that no field names, and for a field whose code was
    not given or differs from what the config states.
    """
    found = [*references(config)]
    if code is None:
        for section, field, value in found:
            check_given(value, f"{section}.{field}")
        return config
    if not found:
        raise InputError(f'--code is {code.path}, but no field of the config names a function of it; use "NAME.py:f".')
    if config.train.code_sha256 not in (None, code.sha256):
        raise InputError(
            f"--code {code.path} has sha256 {code.sha256[:12]}, not the {str(config.train.code_sha256)[:12]} of "
            "train.code_sha256; give the file that the config means, or leave that field out."
        )
    parts: dict[str, Any] = {"train": replace(config.train, code_sha256=code.sha256)}
    for section, field, value in found:
        part = parts.get(section, getattr(config, section))
        parts[section] = replace(part, **{field: code.idea(str(value), f"{section}.{field}")})
    return replace(config, **parts)


def check_same_code(code: Code | None, kept: Path) -> None:
    """Compare a file with the copy that a run folder keeps. Raises InputError that names the first different line."""
    if code is None or not (copy := kept / code.path.name).is_file():
        return
    before, now = (text.decode(errors="replace").splitlines() for text in (read_file(copy), code.text))
    if before == now:
        return
    changes = difflib.SequenceMatcher(None, before, now, autojunk=False).get_opcodes()
    _, i, i_end, j, j_end = next(change for change in changes if change[0] != "equal")
    old, new = (shown(lines[a]) if a < end else "nothing" for lines, a, end in ((before, i, i_end), (now, j, j_end)))
    raise InputError(
        f"--code {code.path} is not the file of this run: line {j + 1} is {new}, where {copy} has {old}; bring that "
        "version back, or start a new run."
    )
