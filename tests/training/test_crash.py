"""Runs killed with SIGKILL, many times in a row, at random moments and while a checkpoint is written."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from runs import TINY, assert_same_run, write_config

from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]


@pytest.mark.newest
@pytest.mark.parametrize("rounds", [5, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(0)])])
def test_a_run_killed_again_and_again_ends_with_the_same_bits(rounds: int, tmp_path: Path) -> None:
    """Every second time while a checkpoint is written, else as the run starts or after some steps.

    Each time all files can be read.
    """
    config = write_config(tmp_path)
    assert "\nsteps = 12\n" in TINY
    config.write_text(config.read_text().replace("\nsteps = 12\n", f"\nsteps = {20 * rounds}\n"))
    rng, run, undisturbed, hit = np.random.default_rng(rounds), tmp_path / "run", tmp_path / "undisturbed", 0
    finish(command(config, undisturbed))
    for number in range(rounds):
        process = command(config, run)
        if number % 4 == 0:  # while it starts, most of the time
            hit += kill(process, rng.uniform(0, 3))
        elif number % 4 == 2:  # in a step, an evaluation, or between them
            wait_for_more(process, run / "metrics.jsonl", int(rng.integers(1, 8)))
            hit += kill(process, rng.uniform(0, 0.05))
        else:
            wait(process, partial(begun_since, run, aside(run)))
            hit += kill(process, rng.uniform(0, 0.25))
        if Checkpoints(run / "checkpoints").steps():
            load_run(run)
            read_metrics(run / "metrics.jsonl")
    assert hit == rounds, "some came too late: the run was done"
    finish(command(config, run))
    assert_same_run(run, undisturbed)
    assert not list((run / "checkpoints").glob("*.tmp"))


def command(config: Path, run: Path) -> "subprocess.Popen[bytes]":
    """The command that starts a run, or resumes it if there is one."""
    words = ["--out", str(run), "--resume"] if (run / "config.toml").exists() else [str(config), "--out", str(run)]
    environment = os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "train", "train", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT, env=environment,
    )  # fmt: skip


def finish(process: "subprocess.Popen[bytes]") -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def kill(process: "subprocess.Popen[bytes]", after: float) -> bool:
    """Whether it was still running at that time. Raises AssertionError if it has failed."""
    time.sleep(after)
    process.kill()
    _, errors = process.communicate()
    assert process.returncode in (-9, 0), errors.decode()
    return process.returncode == -9


def wait_for_more(process: "subprocess.Popen[bytes]", metrics: Path, changes: int) -> None:
    """Wait until the file has changed that many times."""
    for _ in range(changes):
        before = changed(metrics)
        wait(process, lambda before=before: changed(metrics) != before)


def changed(path: Path) -> int:
    """The time of the last change in ns; 0 if the file does not exist."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def wait(process: "subprocess.Popen[bytes]", until: Callable[[], bool]) -> None:
    while not until() and process.poll() is None:
        time.sleep(0.0005)


def begun_since(run: Path, before: set[int]) -> bool:
    return bool(aside(run) - before)


def aside(run: Path) -> set[int]:
    """The inodes of folders that are being written, or were when the process was killed."""
    found = set()
    for path in (run / "checkpoints").glob("*.tmp"):
        try:
            found.add(path.stat().st_ino)
        except FileNotFoundError:
            pass
    return found
