"""A test that hangs fails, and those after it run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.newest

HANGING = """
import subprocess, sys
def test_that_hangs():
    program = "import os, time; open('begun', 'w').write(str(os.getpid())); time.sleep(600)"
    subprocess.run([sys.executable, "-c", program])
def test_after_it():
    pass
"""


def test_a_time_out_ends_a_test_and_the_processes_that_it_waits_for(tmp_path: Path) -> None:
    """With the settings of the project, in a worker of xdist."""
    (tmp_path / "test_hanging.py").write_text(HANGING)
    (tmp_path / "begun").write_text("")
    settings = ["-c", str(Path(__file__).parents[2] / "pyproject.toml"), "--rootdir", str(tmp_path)]
    command = [sys.executable, "-m", "pytest", *settings, "-n", "1", "--timeout", "5", "test_hanging.py"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "Failed: Timeout (>5.0s) from pytest-timeout" in done.stdout
    if child := (tmp_path / "begun").read_text():  # on a busy machine it may not have started
        with pytest.raises(ProcessLookupError):
            os.kill(int(child), 0)


def test_every_test_has_one(request: pytest.FixtureRequest) -> None:
    assert float(request.config.getini("timeout")) >= 60 and request.config.getini("timeout_method") == "signal"
