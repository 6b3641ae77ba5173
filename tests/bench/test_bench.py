"""`jaxllm bench`: figures from given seconds, both sides as scripts, and our real side on a tiny model."""

import dataclasses
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jaxllm import GPT, GPTConfig, InputError
from jaxllm.flops import flops_per_token
from train.bench import alternate, train_recording, workload
from train.bench.machine import processor
from train.bench.statistics import Spread, datasheet_peak, speed_ratio
from train.bench.workload import load_workload, workload_for
from train.cli import build_parser, main
from train.config import ModelConfig, RunConfig

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

ROOT = Path(__file__).parents[2]
TINY = """
[model]
vocab_size = 32
context_length = 8
d_model = 8
n_layers = 1
n_heads = 2
activation = "gelu"
[train]
steps = 6
batch_size = 4
grad_accumulation = 2
[optimizer]
warmup_steps = 3
learning_rate = 1e-2
"""
# Either side. Arguments: its name, which each step logs; seconds of a step; the relative error of its losses; the last
# step that it can take.
SCRIPT = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from train.bench.peers.protocol import peak_memory, serve
name, seconds, shift, last = sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])

class Side:
    weights_s = 0.0
    def __init__(self, job):
        print("building, which is no answer")
        self.job, self.steps = job, 0
        if job.get("save_weights"):
            open(job["save_weights"], "w").write("weights")
        if job.get("load_weights"):
            assert open(job["load_weights"]).read() == "weights"
    def step(self, tokens, rate):
        assert tokens.shape == (4, 9) and str(tokens.dtype) == "int32" and 0 <= tokens.min() <= tokens.max() < 32
        self.steps += 1
        if self.steps > last:
            raise MemoryError("no more of it.")
        open("log.txt", "a").write(name)
        time.sleep(seconds)
        return float(tokens.mean() + 1e3 * rate) * (1 + shift)
    def about(self, first_step_s):
        assert first_step_s >= seconds
        return dict(compile_s=0.5, device="cpu", platform="cpu", n_parameters=1, versions=dict(python="3"))
    def close(self):
        return dict(peak_bytes=peak_memory(), product_flops_per_s=1e9)

serve(Side)
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and a stand-in for nanoGPT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alternate, "TURN_S", 0.06)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "side.py").write_text(SCRIPT)
    (tmp_path / "model.py").write_text("")
    return tmp_path


def play(monkeypatch: pytest.MonkeyPatch, place: Path, ours: str, peer: str) -> None:
    """Both sides by the script with these arguments, which the peer's script passes on."""
    starter = place / "peer.py"
    starter.write_text(f"import runpy, sys\nsys.argv = ['side.py', *{peer.split()}]\nrunpy.run_path('side.py')\n")
    monkeypatch.setattr(train_recording, "OURS", [sys.executable, str(place / "side.py"), *ours.split()])
    monkeypatch.setattr(alternate, "ROOT", place)
    changed = dataclasses.replace(workload.PEERS["nanogpt"], script=starter, needs=("numpy",))
    monkeypatch.setitem(workload.PEERS, "nanogpt", changed)


BENCH = ["bench", "train", "tiny.toml", "--against", "nanogpt", "--peer", ".", "--rounds", "3"]


def test_medians_and_percentiles() -> None:
    assert Spread.of([5, 1, 2, 4, 3, 6, 7, 8, 9, 10, 0]) == Spread(5, 1, 9)


def test_the_ratio_is_above_1_where_we_are_faster() -> None:
    ours, peer = [[1.0, 1.0, 50.0], [4.0], [1.0]], [[2.0, 2.0, 2.0], [8.0], [3.0]]
    assert speed_ratio(ours, peer).median == 2 and speed_ratio(peer, ours).median == 0.5
    assert 2 <= speed_ratio(ours, peer).low < speed_ratio(ours, peer).high <= 3


def test_operations_counted_by_hand() -> None:
    model = GPTConfig(vocab_size=10, context_length=5, d_model=4, n_layers=2, n_heads=2)
    a_layer = 4 * 4 * 4 + 2 * 4 * 16  # query, key, value, output; up and down
    assert flops_per_token(model) == 6 * (2 * a_layer + 10 * 4) + 12 * 2 * 4 * 5


@pytest.mark.parametrize("tied", [True, False])
def test_operations_counted_from_the_parameters(tied: bool) -> None:
    model = GPTConfig(
        vocab_size=11, context_length=6, d_model=8, n_layers=3, n_heads=4, n_kv_heads=2, d_ff=20, tie_embeddings=tied
    )
    shapes = jax.eval_shape(GPT(model).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)
    in_products = sum(leaf.size for path, leaf in leaves if "kernel" in str(path[-1]))
    assert flops_per_token(model) == 6 * (in_products + (11 * 8 if tied else 0)) + 12 * 3 * 8 * 6


def test_data_sheets_speak_of_bfloat16() -> None:
    assert datasheet_peak("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert datasheet_peak("NVIDIA H100 80GB HBM3", "float32") is None is datasheet_peak("cpu", "bfloat16")


def test_a_turn_fills_a_second_and_has_two_timed_steps_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alternate, "TURN_S", 1.0)
    assert train_recording._steps_of_a_turn([{"seconds": [0.1, 0.02, 0.02]}, {"seconds": [0.03]}]) == 40
    assert train_recording._steps_of_a_turn([{"seconds": [9.0, 7.0]}, {"seconds": [8.0]}]) == 2


def test_both_sides_by_turns(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch, place, "A 0.01 0 99", "B 0.05 0 99")
    assert main([*BENCH, "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    log = (place / "log.txt").read_text()
    assert re.fullmatch(r"ABAABBA+B+A+B+A+B+", log) and log.count("A") == log.count("B")
    assert log.count("A") == 3 + saved["sizes"]["steps"] + saved["sizes"]["rounds"]  # a turn's first step is not timed
    assert 1 < saved["ratio"] and saved["ratio_spread"][0] <= saved["ratio"] <= saved["ratio_spread"][1]
    assert saved["ours"]["loss"] == saved["peer"]["loss"] and saved["loss_difference"] == 0
    assert saved["ours"]["tokens_per_s"] > saved["peer"]["tokens_per_s"]
    assert saved["versions"]["nanogpt"] == {"python": "3"}
    printed = capsys.readouterr().out
    assert f"jaxllm is {saved['ratio']:.3f} times as fast as nanogpt" in printed
    assert max(map(len, printed.splitlines())) <= 100 and "\x1b" not in printed


def test_losses_that_differ(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch, place, "A 0.01 0 99", "B 0.01 0.004 99")
    assert main([*BENCH, "--json", "bench.json"]) == 1
    assert "the losses differ by 4.0e-03 relative, more than 1e-03" in capsys.readouterr().out
    assert json.loads((place / "bench.json").read_text())["loss_difference"] == pytest.approx(0.004, rel=1e-2)
    assert main([*BENCH, "--set", "train.dtype=bfloat16"]) == 0


@pytest.mark.parametrize("last", [0, 1, 4])
def test_a_peer_that_dies(
    last: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, place, "A 0.01 0 99", f"B 0.01 0 {last}")
    assert main([*BENCH, "--json", "bench.json"]) == 2
    assert capsys.readouterr().err == "jaxllm bench: the process of nanogpt ended: MemoryError: no more of it.\n"
    assert not (place / "bench.json").exists()


def test_products_that_cannot_be_computed(capsys: pytest.CaptureFixture[str]) -> None:
    """The sentence is that of `jaxllm train`."""
    sets = ["--set=train.products=openblas", "--set=train.dtype=bfloat16"]
    assert main(["bench", "train", "tiny.toml", *sets]) == 2
    assert capsys.readouterr().err == (
        "jaxllm bench: train.products is 'openblas', but it has no bfloat16. To compute without it: --set "
        "train.products=xla.\n"
    )


def test_a_non_finite_loss(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch, place, "A 0.01 nan 99", "B 0.01 0 99")
    assert main(BENCH) == 1
    assert capsys.readouterr().err == "jaxllm bench: the loss of jaxllm is nan: lower optimizer.learning_rate.\n"


def test_no_process_outlives_its_parent(place: Path) -> None:
    """A parent is killed during a child's long step: the child must notice by itself."""
    endless = SCRIPT.replace("time.sleep(seconds)", "while True: open('log.txt', 'a').write('.'); time.sleep(0.01)")
    (place / "side.py").write_text(endless)
    parent = f"""
import os, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from train.bench.process import Worker
from train.bench.workload import load_workload, workload_for
from train.config_file import load_config
worker = Worker("it", [sys.executable, "side.py", "A", "0", "0", "9"], workload_for(load_config("tiny.toml"), None).job())
threading.Thread(target=worker.start, daemon=True).start()
while not os.path.exists("log.txt"):
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", parent], timeout=120).returncode == -9
    log = place / "log.txt"
    for _ in range(100):
        before = log.stat().st_size
        time.sleep(0.2)
        if log.stat().st_size == before:
            return
    pytest.fail("the child is still at work")


def test_ours_alone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", "tiny.toml", "--rounds", "2", "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    ours = saved["ours"]
    assert saved["peer"] is None is saved["ratio"] and saved["sizes"]["rounds"] == 2 == len(ours["round_ms"])
    assert ours["tokens_per_s"] == pytest.approx(4 * 8 / (ours["step_ms"] / 1e3))
    model = GPTConfig(vocab_size=32, context_length=8, d_model=8, n_layers=1, n_heads=2)
    flops_per_s = ours["mfu"] * saved["machine"]["product_flops_per_s"]
    assert flops_per_s == pytest.approx(ours["tokens_per_s"] * flops_per_token(model))
    assert ours["first_loss"] == pytest.approx(math.log(32), abs=0.1)
    assert 0 < ours["compile_s"] < ours["first_step_s"] and ours["peak_bytes"] > 2**26
    assert saved["versions"]["jax"] == jax.__version__ and saved["machine"]["processor"] == processor()
    assert saved["sizes"]["parameters"] == 32 * 8 + 8 * 8 + 12 * 8 * 8 + 13 * 8 + 2 * 8 and saved["date"]
    assert "tokens a second" in capsys.readouterr().out


IDEAS = """
import jax.numpy as jnp
def squared_relu(x): return jnp.square(jnp.maximum(x, 0))
def z_loss(logits, targets): return -logits[..., 0] + 0 * targets
def doubled(logits): return 2 * logits
def falling(config, steps): return lambda step: config.learning_rate / (step + 1)
"""


def test_functions_of_a_file_are_timed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the process that is timed; a peer that cannot have one is refused, and rates are those of its schedule."""
    (place / "ideas.py").write_text(IDEAS)
    names = ["train.loss=ideas.py:z_loss", "model.activation=ideas.py:squared_relu"]
    settings = ["--code", "ideas.py", "--rounds", "1", *(f"--set={name}" for name in names)]
    assert main(["bench", "train", "tiny.toml", *settings, "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    assert saved["sizes"]["activation"] == "ideas.py:squared_relu"
    assert saved["ours"]["first_loss"] == pytest.approx(0, abs=0.1)  # where the cross-entropy is ln 32
    assert main(["bench", "train", "tiny.toml", *settings[2:]]) == 2
    assert "add --code with the path of your ideas.py" in capsys.readouterr().err
    config, code = load_workload("tiny.toml", ["optimizer.schedule=ideas.py:falling"], "ideas.py")
    job = workload_for(config, "nanogpt", code).job()
    assert job["code"] == str(place / "ideas.py") and job["optimizer"]["schedule"] == "ideas.py:falling"
    assert workload_for(config, "nanogpt").rates(0, 2) == pytest.approx([0.01, 0.005])
    for name, message in (("model.logits=ideas.py:doubled", "has none; leave it out"), (names[0], "the cross-entropy")):
        with pytest.raises(InputError, match=message):
            workload_for(load_workload("tiny.toml", [name], "ideas.py")[0], "nanogpt")


WRONG = {
    "missing.toml": "cannot read the config missing.toml",
    "tiny.toml --rounds 0": "--rounds is 0, but it must be from 1 to 10,000",
    "tiny.toml --json out.txt": "--json out.txt: the name of the file must end in .json",
    "tiny.toml --json no/out.json": "there is no folder no",
    "tiny.toml --peer .": "--peer is for a bench --against another program",
    "tiny.toml --peer-python x": "--peer-python is for a bench --against another program",
    "tiny.toml --against nanogpt": "--against nanogpt needs --peer PATH",
    "tiny.toml --against nanogpt --peer no": "--peer no: there is no model.py in it",
    "tiny.toml --against nanogpt --peer . --peer-python no": "--peer-python no cannot be started: No such file",
    "tiny.toml --against hf --peer-python false": "hf needs a Python with torch, transformers, numpy, which false is not",
    "tiny.toml --against hf --peer .": "--peer is for --against nanogpt",
    "tiny.toml --set model.dropout=0.1": "model.dropout is 0.1, but a bench is without",
}
WRONG_FOR_PEERS = {
    "hf model.use_bias=false": "model.use_bias is false, but hf has only true; give --set model.use_bias=true.",
    "hf model.activation=gelu": "model.activation is gelu, but hf has only gelu_tanh",
    "nanogpt model.activation=relu": "model.activation is relu, but nanogpt has only gelu",
    "nanogpt optimizer.name=lion": "optimizer.name is lion, but nanogpt trains with AdamW",
    "nanogpt model.norm=rms_norm": "model.norm is rms_norm, but nanogpt has only layer_norm",
    "nanogpt model.position=sinusoidal": "model.position is sinusoidal",
    "nanogpt model.n_kv_heads=1": "model.n_kv_heads is 1, but nanogpt has only 2",
    "nanogpt model.tie_embeddings=false": "model.tie_embeddings is false",
    "hf model.norm_epsilon=1e-6": "model.norm_epsilon is 1e-06, but hf has only 1e-05; give --set model.norm_epsilon=1e-05.",
    "hf model.qk_norm=true": "model.qk_norm is true, but hf has only false",
    "hf model.scale_embeddings=true": "model.scale_embeddings is true, but hf has only false",
    "hf model.ngrams=2": "model.ngrams is 2, but hf has only 1; give --set model.ngrams=1.",
    "nanogpt model.d_head=7": "model.d_head is 7, but nanogpt has only 4; give --set model.d_head=4",
    "nanogpt model.sliding_window=3": "model.sliding_window is 3, but nanogpt has only 8",
    "hf model.separator=3": "model.separator is 3, but hf has none; leave it out.",
    "nanogpt model.mup_base_width=4": "model.mup_base_width is 4, but nanogpt has none; leave it out.",
    "nanogpt model.d_ff=9": "model.d_ff is 9, but nanogpt has only 32",
    "nanogpt model.position=none": "model.position is none, but nanogpt has only learned",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "train", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm bench: ") and WRONG[words] in error and error.count("\n") == 1


@pytest.mark.parametrize("words", WRONG_FOR_PEERS)
def test_what_a_peer_cannot_do(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    against, setting = words.split()
    monkeypatch.setitem(workload.PEERS, against, dataclasses.replace(workload.PEERS[against], needs=()))
    peer = ["--peer", "."] if against == "nanogpt" else []
    settings = ["--set", "model.activation=gelu_tanh", "--set", setting]
    assert main(["bench", "train", "tiny.toml", "--against", against, *peer, *settings]) == 2
    error = capsys.readouterr().err
    assert WRONG_FOR_PEERS[words] in error and error.count("\n") == 1


def test_the_activation_is_the_peers(place: Path) -> None:
    config = RunConfig(model=ModelConfig(vocab_size=32, activation="gelu_tanh"))
    assert workload_for(config, "nanogpt").model.activation == "gelu"
    assert workload_for(config, "hf").model.activation == "gelu_tanh"
    assert workload_for(config, None).model.activation == "gelu_tanh"


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "train", "--help"])
    assert stop.value.code == 0
    example = capsys.readouterr().out.split("example:")[1].split()
    assert example[:3] == ["jaxllm", "bench", "train"] and build_parser().parse_args(example[1:])


@pytest.mark.parametrize("against", ["nanogpt", "hf"])
def test_the_peers_themselves(against: str, place: Path) -> None:
    """The same weights, tokens and optimizer steps. nanoGPT's folder is named by NANOGPT."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("needs the extra `peers`")
    if against == "nanogpt" and "NANOGPT" not in os.environ:
        pytest.skip("NANOGPT names no checkout of nanoGPT")
    activation = "gelu" if against == "nanogpt" else "gelu_tanh"
    peer = ["--peer", os.environ["NANOGPT"]] if against == "nanogpt" else []
    command = ["bench", "train", "tiny.toml", "--set", f"model.activation={activation}", "--rounds", "2"]
    assert main([*command, "--against", against, *peer, "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    assert saved["loss_difference"] < 1e-5
    assert saved["ours"]["first_loss"] == pytest.approx(saved["peer"]["first_loss"], rel=1e-6)
