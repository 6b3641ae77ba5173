"""`jaxllm bench tune`: adapters and all parameters by turns, as real processes on a tiny model."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from imported_runs import imported

from jaxllm.gpt import count_parameters, parameter_shapes
from train.bench import alternate
from train.bench.job import config_of
from train.bench.train_recording import TrainRecording
from train.bench.tune import DEFAULT, SMOLLM2, bench_config, make_figures, table, workload_of
from train.cli import main
from train.tune.config import LoraConfig

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
TINY = (
    "model.vocab_size=40",
    "model.n_layers=1",
    "model.d_model=18",
    "model.d_ff=8",
    "train.window=16",
    "train.products=xla",
)


def test_the_shape_is_that_of_smollm2() -> None:
    assert count_parameters(SMOLLM2) == 134_515_008


def test_both_sides_by_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(alternate, "TURN_S", 0.01)
    sets = [word for one in (*TINY, "lora.rank=2") for word in ("--set", one)]
    assert main(["bench", "tune", *sets, "--rounds", "1", "--json", str(tmp_path / "out.json")]) == 0
    figures = json.loads((tmp_path / "out.json").read_text())
    config = bench_config(None, [*TINY, "lora.rank=2"])
    shapes = parameter_shapes(workload_of(config).model)
    kernels = [shape for path, shape in shapes.items() if path.endswith("kernel")]
    assert len(kernels) == 7
    assert figures["ours"]["n_changing"] == sum(2 * (d + f) for d, f in kernels)
    assert figures["peer"]["n_changing"] == count_parameters(workload_of(config).model)
    assert figures["ratio"] > 0 and figures["sizes"]["rounds"] == 1
    printed = capsys.readouterr().out
    assert "a step is 4 x 16 tokens" in printed and "adapters of rank 2" in printed


def recording(seconds: float, n: int, peak: int) -> TrainRecording:
    turn = {"seconds": [9.0, seconds, seconds], "losses": [1.0, 1.0, 1.0]}
    begun = {"n_parameters": n, "compile_s": 1.0, "device": "cpu", "versions": {"jax": "0"}}
    return TrainRecording(begun, (turn, turn), {"peak_bytes": peak})


def test_the_figures() -> None:
    """A step of half the time is twice as fast; the first step of a turn is not counted."""
    figures = make_figures(workload_of(DEFAULT), [recording(1.0, 10, 2**20), recording(2.0, 100, 2**22)])
    assert (figures["ratio"], figures["memory_ratio"]) == (2, 0.25)
    assert figures["ours"]["step_ms"] == 1000 and figures["ours"]["tokens_per_s"] == 1024
    lines = table(figures)
    assert (
        lines[-2] == "a step with adapters is 2.00 times as fast (2.00 to 2.00 over 2 rounds), in 0.25 times the memory"
    )
    assert [line.split()[-2:] for line in lines if line.startswith("peak")] == [["4", "MiB"]]


def test_a_job_of_adapters_is_read_back() -> None:
    workload = workload_of(DEFAULT)
    job = workload.job() | {"lora": asdict(DEFAULT.lora)}
    assert config_of(job)[1].lora == LoraConfig(rank=8)
    assert config_of(workload.job())[1].lora.rank == 0
    assert workload.model.context_length == 256


def test_the_shape_of_a_run(tmp_path: Path) -> None:
    config = bench_config(str(imported(tmp_path / "run")), [])
    assert (config.model.d_model, config.model.vocab_size, config.train.window) == (8, 260, 64)
    assert replace(config, model=DEFAULT.model, train=DEFAULT.train) == DEFAULT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--set", "lora.rank=0"], "lora.rank is 0"),
        (["--set", "train.window=9000"], "train.window is 9,000, more than model.context_length = 8,192"),
        (["--rounds", "0"], "--rounds is 0"),
        (["nowhere"], "no run folder"),
    ],
)
def test_wrong_input(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "tune", *words]) == 2
    assert said in capsys.readouterr().err
