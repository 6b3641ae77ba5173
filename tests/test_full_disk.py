"""A checkpoint that cannot be written: the run says so and goes on, and what was saved before still is."""

import subprocess
import sys
from pathlib import Path

import pytest
from runs import lines, write_config

from train.cli import main
from train.trained import load_run

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

FULL = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))"  # of any one file
READ_ONLY = """
import ctypes, os
ctypes.CDLL(None).prctl(24, 1)  # even root may then write only where it has the right to (capabilities(7))
if "again" not in sys.argv:
    os.execv(sys.executable, [*sys.orig_argv, "again"])
os.chmod(sys.argv[1] + "/checkpoints", 0o555)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits and rights as Linux has them")
@pytest.mark.parametrize(("obstacle", "said"), [(FULL, "File too large"), (READ_ONLY, "Permission denied")])
def test_the_run_goes_on_and_the_last_checkpoint_still_loads(obstacle: str, said: str, tmp_path: Path) -> None:
    config, run = write_config(tmp_path), tmp_path / "run"
    config.write_text(config.read_text().replace("d_model = 16", "d_model = 64"))
    assert main(["train", str(config), "--out", str(run), "--set", "train.steps=5"]) == 0
    more = ["train", "--out", str(run), "--resume", "--set", "train.steps=12"]
    program = f"import sys\n{obstacle}\nfrom train.cli import main\nsys.exit(main({more}))"
    done = subprocess.run(
        [sys.executable, "-c", program, str(run)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    (run / "checkpoints").chmod(0o755)
    notes = [line for line in done.stderr.splitlines() if "could not be written" in line]
    assert done.returncode == 1, done.stderr
    assert [line.split(" could")[0] for line in notes] == [
        "note: the checkpoint of step 10", "jaxllm train: the checkpoint of step 12",
    ]  # fmt: skip
    assert all(said in line and "step 5 is the newest there" in line for line in notes)
    assert "Traceback" not in done.stderr
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["5"]
    assert lines(run)[-1]["step"] == 12
    assert load_run(run).step == 5
    assert main(more) == 0
    assert load_run(run).step == 12 and len(lines(run)) == 12
