"""A checkpoint that cannot be written: the run reports it and goes on, and older checkpoints remain."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import Step, lines, write_config

import train.loop
from train.cli import main
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run

pytestmark = [
    pytest.mark.newest,
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.skipif(sys.platform != "linux", reason="limits and rights as Linux has them"),
]


def before_step_6(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Between the checkpoint of step 5, once it is written, and that of step 10."""

    def begun(*arguments: Any) -> Any:
        state, step = begin(*arguments)

        def call(state: Any, *batch: object) -> Any:
            if int(state.step) == 5:
                act()
            return step(state, *batch)

        return state, Step(call)

    begin = train.loop.init_and_compile
    monkeypatch.setattr(train.loop, "init_and_compile", begun)


def assert_said_and_loads(run: Path, errors: str, said: str) -> None:
    notes = [line for line in errors.splitlines() if "could not be written" in line]
    assert [line.split(" could")[0] for line in notes] == [
        "note: the checkpoint of step 10", "jaxllm train: the checkpoint of step 12",
    ]  # fmt: skip
    for line in notes:
        assert said in line and "step 5 is the newest there" in line, line
    assert "Traceback" not in errors
    assert Checkpoints(run / "checkpoints").steps() == [5]
    assert lines(run)[-1]["step"] == 12
    assert load_run(run).step == 5


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of a file simulates it: only the file of the arrays is longer."""
    config, run = write_config(tmp_path), tmp_path / "run"
    wide = ["--set", "model.d_model=64"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        while not (run / "checkpoints" / "5").exists():
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    with monkeypatch.context() as patch:
        before_step_6(patch, fill)
        code = main(["train", str(config), "--out", str(run), *wide])
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 1
    assert_said_and_loads(run, capfd.readouterr().err, "File too large")
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert load_run(run).step == 12 and len(lines(run)) == 12
    assert not list((run / "checkpoints").glob("*.tmp"))


def test_a_folder_that_must_not_be_written(tmp_path: Path) -> None:
    """In a process that respects permissions even as root (capabilities(7))."""
    program = """
import ctypes, os, sys, time
if "again" not in sys.argv:
    ctypes.CDLL(None).prctl(24, 1)  # processes started from here on do not have CAP_DAC_OVERRIDE
    os.execv(sys.executable, [*sys.orig_argv, "again"])
sys.path[:0] = [".", "tests/support"]
import pytest, train.cli
from pathlib import Path
from tests.training.test_full_disk import before_step_6
def forbid():
    while not Path(sys.argv[2], "checkpoints/5").exists():
        time.sleep(0.001)
    os.chmod(sys.argv[2] + "/checkpoints", 0o555)
before_step_6(pytest.MonkeyPatch(), forbid)
sys.exit(train.cli.main(["train", sys.argv[1], "--out", sys.argv[2]]))
"""
    config, run = write_config(tmp_path), tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", program, str(config), str(run)],
        capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    os.chmod(run / "checkpoints", 0o755)
    assert_said_and_loads(run, done.stderr, "Permission denied")
