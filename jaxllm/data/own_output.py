"""Recognising the files that jaxllm itself wrote, by their content and not by their names.

A folder of texts may also be where its runs and tokenizers are saved. They are not part of the corpus: without them,
reading the folder again finds the same text.
"""

import os
import re
from io import BufferedReader
from itertools import count
from pathlib import Path

from jaxllm.tokenizers.base import FORMAT as TOKENIZER_FORMAT
from jaxllm.utils.files import open_file

HEADLINE = "# jaxllm {}, Python {}, jax {}\n"  # begins the config.toml of a run
_HEADLINE = re.compile(HEADLINE.format(*[r"\S+"] * 3).encode())
_FORMAT = re.compile(rb'\s*\{\s*"format"\s*:\s*"(jaxllm [a-z ]+)"')
HEAD = 256  # bytes at the beginning that hold these
LONGEST_LINE = 2**16  # bytes of a line of a vocabulary


def is_own_file(path: str | Path) -> bool:
    """Whether it is a tokenizer, a vocabulary for reading, a run's config, or a file that names a format of jaxllm."""
    try:
        with open_file(path) as file:
            head = file.peek(HEAD)[:HEAD]
            return bool(_FORMAT.match(head) or _HEADLINE.match(head)) or _is_vocabulary(file)
    except OSError:
        return False  # reading it as text reports the error


def is_run(folder: str | Path) -> bool:
    """Whether it is a run folder."""
    return bool(_HEADLINE.match(_head(os.path.join(folder, "config.toml")))) and (
        format_of(os.path.join(folder, "tokenizer.json")) == TOKENIZER_FORMAT
    )


def format_of(path: str | Path) -> str | None:
    """The format that a file of jaxllm names at its beginning, even if the rest is damaged; None for other files."""
    found = _FORMAT.match(_head(path))
    return found[1].decode() if found else None


def _head(path: str | Path) -> bytes:
    try:
        with open_file(path) as file:
            return file.read(HEAD)
    except OSError:
        return b""


def _is_vocabulary(file: BufferedReader) -> bool:
    """Whether each line ends with a token and its number, as `jaxllm.tokenizers.listing` writes them."""
    for number in count():
        line = file.readline(LONGEST_LINE)
        if not line:
            return number > 0
        token, _, i = line.removesuffix(b"\n").removesuffix(b" special").removesuffix(b" added").rpartition(b"] ")
        if not token.startswith(b"[") or i != str(number).encode():
            return False
    return False
