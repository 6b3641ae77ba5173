"""Pictures are drawn with any backend in the environment; a run or a comparison does not fail because of them."""

import os
import subprocess
import sys
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from runs import lines, write_config

import train.commands.compare
from jaxllm.compare import Comparison, Report
from train.cli import main
from train.commands.attention_plot import attention_picture
from train.commands.compare_plot import draw_errors
from train.runs.loss_plot import draw_losses

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

INLINE = "module://matplotlib_inline.backend_inline"  # as notebooks set it, also for programs that they start
DRAW = """
import os, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from train.commands.attention_plot import attention_picture

from train.runs.loss_plot import draw_losses
draw_losses([{"step": 1, "train_loss": 2.5, "val_loss": 2.0}], Path(sys.argv[1], "loss.png"))
Path(sys.argv[1], "map.png").write_bytes(attention_picture("run", np.ones((1, 1, 2, 2)), ["a", "b"], None, ".png"))
import matplotlib
print(os.environ.get("MPLBACKEND"), matplotlib.rcParams._get_backend_or_none(), "matplotlib.pyplot" in sys.modules)
"""


@pytest.mark.parametrize(("named", "kept"), [(INLINE, "None"), ("nonsense", "None"), ("svg", "svg"), (None, "None")])
def test_the_environment_may_name_any_backend(tmp_path: Path, named: str | None, kept: str) -> None:
    """The name stays in the environment, and the backend stays configured if matplotlib has it."""
    environment = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])} | ({"MPLBACKEND": named} if named else {})
    done = subprocess.run(
        [sys.executable, "-c", DRAW, str(tmp_path)], capture_output=True, text=True, env=environment
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.split() == [str(named), kept, "False"]
    for name in ("loss.png", "map.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def report(error: float) -> Report:
    rows = [
        Comparison(stage, name, (1,), error, error, 1.0, 1e-4) for stage in ("forward", "backward") for name in "ab"
    ]
    return Report.of("float32", rows)


def test_drawing_does_not_change_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    before = {**matplotlib.rcParams}
    draw_losses([{"step": 1, "train_loss": 2.5}], tmp_path / "loss.png")
    draw_errors(report(error=1e-6), tmp_path / "error.png")
    attention_picture("run", np.ones((1, 1, 2, 2)), ["a", "b"], 0, ".svg")
    assert {**matplotlib.rcParams} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["error.png", "loss.png"]


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every picture fail with a message of two lines."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("latex was not\nable to process it")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", fail)


@pytest.mark.usefixtures("no_drawing")
def test_a_run_does_not_depend_on_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = ["train", "--out", str(run)]
    note = f"note: {run / 'loss.png'} was not drawn: latex was not able to process it\n"
    assert main([*command, str(write_config(tmp_path)), "--set", "train.steps=4"]) == 0
    said = capsys.readouterr()
    assert said.err == note and "picture" not in said.out
    assert len(lines(run)) == 4 and not list(run.glob("loss*"))
    assert main([*command, "--resume"]) == 0  # all steps are done, but there is no picture
    said = capsys.readouterr()
    assert said.err == note and "has all its 4 steps" in said.out
    attention = ["attention", str(run), "--prompt", "cat", "--out"]
    assert main([*attention, str(tmp_path / "map.png")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("jaxllm attention: ") and error.count("\n") == 1 and "latex was not able" in error
    assert main([*attention, str(tmp_path / "map.html")]) == 0  # a page does not need matplotlib
    assert not list(tmp_path.glob("map.png*"))


@pytest.mark.usefixtures("no_drawing")
@pytest.mark.parametrize("within", [True, False])
def test_a_comparison_does_not_depend_on_its_picture(
    within: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train.commands.compare, "compare", lambda *_: report(error=1e-6 if within else 1.0))
    out = tmp_path / "error.png"
    assert main(["compare", "--out", str(out)]) == (0 if within else 1)
    assert f"note: {out} was not drawn: latex" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw_losses([{"step": 1, "train_loss": 2.5}], tmp_path / "absent" / "loss.png")
    assert capsys.readouterr().err == f"note: {tmp_path}/absent/loss.png was not drawn: No such file or directory\n"
