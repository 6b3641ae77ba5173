"""`jaxllm bench plan`: the table from given figures, and what its process compiles."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.bench import plan, plan_worker
from train.cli import main

pytestmark = pytest.mark.newest

SMALL = """
data.source = "not-there.txt"
model = {vocab_size = 61, context_length = 16, d_model = 16, n_layers = 5, n_heads = 2}
train = {steps = 10, batch_size = 8}
optimizer = {warmup_steps = 1}
"""


def test_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """The error of a plan is its excess over what is; of seconds, that of the median ratio of a turn."""
    seconds = iter(range(1, 1 + 3 * plan.TURNS))

    def ask(module: str, job: dict[str, Any], variables: dict[str, str]) -> dict[str, Any]:
        if job["what"] == "step":
            return {"ms": 2000.0}
        assert variables["JAX_NUM_CPU_DEVICES"] == str(job["n_devices"])
        return {"false": [120 * 2**20, 100 * 2**20], "true": [2**20, 2**20]}

    monkeypatch.setattr(plan, "ask", ask)
    monkeypatch.setattr(plan, "planned", lambda job: {"local_s": float(next(seconds))})
    (tmp_path / "small.toml").write_text(SMALL)
    out = tmp_path / "plan.json"
    assert main(["bench", "plan", str(tmp_path / "small.toml"), "--json", str(out)]) == 0
    content, printed = json.loads(out.read_text()), capsys.readouterr().out.splitlines()
    assert len(content["memory"]) == 2 * len(plan.LAYOUTS)
    assert content["memory"][-2]["layout"] == [2, 2, 2] and content["memory"][-2]["error"] == pytest.approx(0.2)
    assert [row["error"] for row in content["time"]] == [0.0, 1.5, 3.0]  # ratios 0.5 1 1.5, 2 2.5 3, 3.5 4 4.5
    assert "           2, 2, 2  false    120.00    100.00  +20.0%" in printed
    assert "          384 wide    5000.0 ms    2000.0 ms +150.0%  (ratios 2.00, 2.50, 3.00)" in printed


def test_the_whole_step_has_all_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    monkeypatch.setattr(plan_worker, "plan", lambda job: {"memory": job["overrides"]})
    monkeypatch.setattr(plan_worker.PlannedStep, "lower", lambda one, n: (n, one.config.train.remat))
    monkeypatch.setattr(plan_worker, "compile_step", lambda lowered, on_tpu: lowered)
    monkeypatch.setattr(plan_worker, "memory_of", lambda step: step)
    job = {"config": str(tmp_path / "small.toml"), "overrides": [], "code": None, "n_devices": 1, "topology": ""}
    assert plan_worker.memory_by_remat(job | {"kind": "cpu"}) == {
        "false": (["train.remat=false"], (5, False)), "true": (["train.remat=true"], (5, True))
    }  # fmt: skip
