"""Writes the files of the course: a lesson for each piece, with empty bodies."""

import json
from dataclasses import dataclass
from pathlib import Path
from string import Template

from jaxllm.utils.errors import InputError

from .course import ORDER, file_name
from .folder import SETTINGS, VERSION, LearnFolder

LESSONS = Path(__file__).parent / "lessons"
WORDS = {  # what a lesson says in each language
    "numpy": {"imports": "import numpy as np", "array": "np.ndarray"},
    "jax": {"imports": "import jax\nimport jax.numpy as jnp", "array": "jax.Array"},
    "torch": {"imports": "import torch", "array": "torch.Tensor"},
}


@dataclass(frozen=True)
class Written:
    """What `start` did."""

    folder: LearnFolder
    files: tuple[str, ...]  # that were missing
    kept: tuple[str, ...]  # that were there


def start(path: str | Path, language: str | None = None) -> Written:
    """Make the folder, or add the files that it has not.

    A file that exists is kept as it is. The language is by default that of the folder, else NumPy. Raises InputError if
    the folder has another language, is a file, or cannot be written.
    """
    try:
        return _start(path, language)
    except OSError as error:
        raise InputError(f"cannot write {error.filename or path}: {error.strerror}; name another folder.") from None


def _start(path: str | Path, language: str | None) -> Written:
    if not str(path):
        raise InputError("the name of the folder is empty; give one, or . for this one.")
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; give the name of a folder.")
    if (path / SETTINGS).exists():
        folder = LearnFolder.open(path)
        if language not in (None, folder.language):
            raise InputError(
                f"{path} is a course in {folder.language}, not in {language}; leave out --language, or name another "
                "folder."
            )
    else:
        folder = LearnFolder(path, language or "numpy")
        path.mkdir(parents=True, exist_ok=True)
        _write(path / SETTINGS, f"{json.dumps({'version': VERSION, 'language': folder.language})}\n")
    wanted = {file_name(name): name for name in ORDER if (LESSONS / f"{name}.py.txt").exists()}
    written = [file for file, name in wanted.items() if _write(path / file, lesson(name, folder.language))]
    return Written(folder, tuple(written), tuple(file for file in wanted if file not in written))


def lesson(name: str, language: str) -> str:
    """The text of a piece's file in a language."""
    return Template((LESSONS / f"{name}.py.txt").read_text(encoding="utf-8")).substitute(WORDS[language])


def _write(path: Path, text: str) -> bool:
    """Write a new file; returns whether there was none."""
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True
