"""The two sides of a bench as processes: ours, and another program or another commit of ours."""

import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import alternate
from .alternate import Program, Show
from .commit import Commit, checked_out, find_commit, fitted_job, known_fields
from .process import Worker

Other = Program | Commit
Job = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """A side that is not started yet."""

    name: str
    command: list[str]
    job: Job
    folder: Path | None = None  # where it runs, and Python searches first; by default the current folder
    loads: bool = True  # whether it can start from given weights; each of ours can save its own


def other_of(against: str | None, rev: str | None, path: str | None, python: str | None, worker: str) -> Other | None:
    """The other side, from the command's options; None if ours runs alone. Raises InputError if it cannot be had.

    `worker` is the module in `train/bench` whose process is timed.
    """
    program = alternate.peer_for(against, path, python)
    return program if rev is None else find_commit(rev, worker)


def our_side(command: list[str], job: Job) -> Side:
    """This code."""
    return Side("jaxllm", command, job, alternate.ROOT)


def other_side(stack: ExitStack, other: Other, job: Job, scripts: Mapping[str, Path]) -> Side:
    """A program by its script, or a commit by its worker, whose files the stack removes."""
    if isinstance(other, Program):
        return Side(other.name, [other.python, str(scripts[other.name])], job | {"peer": other.path})
    tree = stack.enter_context(checked_out(other))
    fitted = fitted_job(job, known_fields(other, tree), other.name)
    # That commit may be older than the loading of weights.
    return Side(other.name, [sys.executable, "-m", f"train.bench.{other.worker}"], fitted, tree, loads=False)


def program_name(other: Other | None) -> str | None:
    """The name in PEERS of a program, which the model must suit; None for a commit, which has our models."""
    return other.name if isinstance(other, Program) else None


def described(other: Other | None) -> list[str]:
    """Lines that say which commits run."""
    return other.lines() if isinstance(other, Commit) else []


def commits(other: Other | None) -> dict[str, Any]:
    """The same for the JSON, under `commits`."""
    return {"commits": other.figures()} if isinstance(other, Commit) else {}


def start_sides(stack: ExitStack, ours: Side, other: Side | None, show: Show) -> tuple[list[Worker], list[Job]]:
    """The processes of ours and the other, and their answers to the job; both have the same weights.

    The first that starts saves its weights, and the second loads them.
    """
    if other is None:
        worker, begun = _start(stack, ours, show, save_weights=None, load_weights=None)
        return [worker], [begun]
    first, second = (ours, other) if other.loads else (other, ours)
    with tempfile.TemporaryDirectory(prefix="jaxllm-bench-") as folder:
        weights = str(Path(folder) / "weights.npz")
        one = _start(stack, first, show, save_weights=weights, load_weights=None)
        platform = one[1]["platform"]
        if first is ours:
            alternate.check_platform(platform, other.name)
        two = _start(stack, second, show, save_weights=None, load_weights=weights, platform=platform)
    both = (one, two) if first is ours else (two, one)
    return [worker for worker, _ in both], [begun for _, begun in both]


def _start(stack: ExitStack, side: Side, show: Show, **more: str | None) -> tuple[Worker, Job]:
    show(f"starting {side.name}")
    worker = stack.enter_context(Worker(side.name, side.command, side.job | more, side.folder))
    return worker, worker.start()
