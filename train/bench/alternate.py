"""Both sides by turns, A B A B, so that what slows the machine down for a while slows both."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from jaxllm.utils.errors import InputError

from .process import check_python
from .workload import PEERS

ROOT = Path(__file__).parents[2]  # the working folder of our side, where a checkout is importable
TURN_S = 1.0  # seconds of a turn: the mean of both sides, which do equally much in it
MOST_ROUNDS = 10_000
Show = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """Another program as the other side: a name in PEERS, the folder of its code and the Python that runs it."""

    name: str
    path: str | None
    python: str


def peer_for(against: str | None, path: str | None, python: str | None) -> Program | None:
    """The other program, from the command's options. Raises InputError for options that do not fit together."""
    if against is None:
        if path or python:
            raise InputError(f"{'--peer' if path else '--peer-python'} is for a bench --against another program.")
        return None
    if PEERS[against].from_path != bool(path):
        raise InputError(
            f"--against {against} needs --peer PATH, a checkout of karpathy/nanoGPT." if PEERS[against].from_path
            else f"--peer is for --against nanogpt; {against} is taken from the Python that --peer-python names."
        )  # fmt: skip
    if path and not (Path(path) / "model.py").is_file():
        raise InputError(f"--peer {path}: there is no model.py in it; name a checkout of karpathy/nanoGPT.")
    python = python or sys.executable
    check_python(python, PEERS[against].needs, against)
    return Program(against, path and os.path.abspath(path), python)


def check_rounds(rounds: int) -> None:
    """Raises InputError for too few or too many."""
    if not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"--rounds is {rounds}, but it must be from 1 to {MOST_ROUNDS:,}.")


def check_platform(platform: str, against: str) -> None:
    """Raises InputError for a platform of JAX on which PyTorch does not run."""
    if platform not in ("cpu", "gpu"):
        raise InputError(f"JAX runs on a {platform} here, where {against} cannot; leave --against out.")


@contextmanager
def status_line() -> Iterator[Show]:
    """Yields a function that shows what is being done, in one line on a terminal; elsewhere it shows nothing."""
    if not sys.stderr.isatty():
        yield lambda doing: None
        return
    # More refreshes a second would take time from the steps.
    with Console(stderr=True).status("", refresh_per_second=1) as status:
        yield status.update
