"""The training loop: when metrics are fetched, what a diverged run saves, and what a new run does not wait for."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Step, lines, write_config

import train.loop
from train.cli import main
from train.runs.checkpoint import Checkpoints

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]


@pytest.mark.parametrize("every", [1, 5])
def test_a_diverged_run_exits_with_1_and_saves_nothing_of_it(
    every: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    wild = ["--set", "optimizer.learning_rate=1e38", "--set", "optimizer.warmup_steps=0", "--set", "eval.every=100"]
    assert main(["train", str(config), "--out", str(run), *wild, "--set", f"checkpoint.every={every}"]) == 1
    error = capsys.readouterr().err
    assert "the run has diverged" in error and error.count("\n") == 1
    assert all(np.isfinite(list(r.values())).all() for r in lines(run))
    assert not list((run / "checkpoints").iterdir())


def test_a_new_run_does_not_wait_for_orbax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)  # an import of it fails
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest_step() is None


def test_a_new_run_compiles_its_two_programs_and_two_checks(tmp_path: Path) -> None:
    """Each further program before the first step would take XLA some hundredths of a second."""
    code = f"""
import logging, re, sys
import jax, train.cli, train.loop
jax.config.update("jax_log_compiles", True)
compiled = []
class Names(logging.Handler):
    def emit(self, record):
        compiled.extend(re.findall(r"^Compiling (?:jit[(])?([^ )]+)", record.getMessage()))
logging.getLogger("jax").addHandler(Names())
train.loop.StepLog = lambda *_: sys.exit(print(sorted(compiled)))
train.cli.main(["train", {str(write_config(tmp_path))!r}, "--out", {str(tmp_path / "run")!r}, "--set", "model.dropout=0"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(["<lambda>", "_seeded_state", "_sums", "train_step"])


@pytest.mark.parametrize(
    ("done_when_called", "want"), [(False, "d1 d2 f1 d3 f2 d4 f3 f4"), (True, "d1 f1 d2 f2 d3 f3 d4 f4")]
)
def test_metrics_are_fetched_when_they_are_there_or_after_the_next_step_is_dispatched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done_when_called: bool, want: str
) -> None:
    events: list[str] = []

    class Finite:
        def is_ready(self) -> bool:
            return done_when_called

        def __float__(self) -> float:
            return -1.0

    class Metric:
        def __init__(self, step: int) -> None:
            self.step = step

        def is_ready(self) -> bool:
            return done_when_called

        def __float__(self) -> float:
            events.append(f"f{self.step}")
            return 1.0

    def spied(*arguments: Any) -> object:
        state, step = begin(*arguments)

        def train_step(state: Any, *batch: object) -> object:
            events.append(f"d{int(state.step) + 1}")
            return step(state, *batch)[0], {"train_loss": Metric(int(events[-1][1:])), "not_finite": Finite()}

        return state, Step(train_step)

    begin = train.loop.init_and_compile
    monkeypatch.setattr(train.loop, "init_and_compile", spied)
    assert main(["train", str(write_config(tmp_path)), "--out", str(tmp_path / "run"), "--set", "train.steps=4"]) == 0
    assert " ".join(events) == want
