"""`jaxllm bench speedrun`: whole runs of both sides by turns, each side a script of a few lines."""

import dataclasses
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxllm.data.batches import evaluation_batches
from train.bench import speedrun_nanogpt, speedrun_ours, workload
from train.bench.alternate import Program
from train.bench.speedrun_ours import OurRun, load_recipes, train_ours_within
from train.bench.speedrun_report import Round, make_figures, round_line, table
from train.bench.whole_run import Tail, WholeRun
from train.cli import build_parser, main
from train.errors import RunError

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

TEXT = "to be or not to be, that is the question. " * 10
CONFIG = """
[data]
source = "text.txt"
[model]
context_length = 8
d_model = 8
n_layers = 1
n_heads = 2
[train]
steps = 4
batch_size = 2
[optimizer]
warmup_steps = 1
"""
# `jaxllm train`: four evaluations, the third of them at the loss of its setting.
OURS = """
import json, os, sys, time
config, out, *sets = [word for word in sys.argv[2:] if word not in ("--out", "--set")]
settings = dict(word.split("=") for word in sets)
cache = os.environ["JAXLLM_COMPILE_CACHE"]
assert not os.path.exists(cache) and "JAX_COMPILATION_CACHE_DIR" not in os.environ
assert os.environ["JAX_PLATFORMS"] == "cpu"
os.mkdir(out)
train = f"[train]\\nseconds = {settings['train.seconds']}" if "train.seconds" in settings else "[train]"
open(out + "/config.toml", "w").write(open(config).read().replace("[train]", train))
open("log.txt", "a").write("J" if "train.seconds" in settings else "A")
open("seeds.txt", "a").write(settings["train.seed"])
with open(out + "/metrics.jsonl", "w", buffering=1) as file:
    for i, loss in enumerate((3.0, 2.5, 1.95, 1.85)):
        record = dict(step=i + 1, tokens=16 * (i + 1), elapsed_s=0.01 * i + 0.02, tokens_per_s=1600.0, train_loss=1.0)
        if "train.seconds" in settings:
            record["train_s"] = record["elapsed_s"]
        file.write(json.dumps(record | dict(val_loss=9.0, averaged_val_loss=loss + float(os.environ["WORSE"]))) + "\\n")
        time.sleep(0.03)
print("not a number")
"""
# nanoGPT's train.py, in its working folder: two checkpoints, and what a loss script computes of them.
NANOGPT = """
import pickle, sys, time
import numpy as np
words = sys.argv[1:]
assert "--max_iters=2000" in words and open(words[0]).read() == "recipe" and open("configurator.py").read() == "it"
assert pickle.load(open("data/shakespeare_char/meta.pkl", "rb")) == {"vocab_size": VOCABULARY}
train, val = (np.fromfile(f"data/shakespeare_char/{name}.bin", np.uint16) for name in ("train", "val"))
characters = sorted(set(TEXT))
ids = [characters.index(c) for c in TEXT]
assert [*train, *val] == ids and len(train) == int(0.9 * len(TEXT))
import os
os.mkdir("out-shakespeare-char")
for i, loss in enumerate(("2.25", "1.9")):
    print("step", 250 * i)
    print("saving checkpoint to out-shakespeare-char")
    open("out-shakespeare-char/ckpt.pt", "w").write(loss)
    time.sleep(0.05)
    print(f"iter {i}: loss")
    time.sleep(SECONDS)
"""
LOSSES = """
import json, sys
job = json.load(sys.stdin)
losses = [float(open(path).read()) for path in job["checkpoints"]]
print(json.dumps({"losses": losses, "versions": {"torch": "3"}}))
"""
COMMAND = ["bench", "speedrun", "char.toml"]
AGAINST = ["--against", "nanogpt", "--peer", "nanoGPT"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, a text, and both sides."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORSE", "0")
    (tmp_path / "char.toml").write_text(CONFIG)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "ours.py").write_text(OURS)
    (tmp_path / "losses.py").write_text(LOSSES)
    values = f"TEXT, VOCABULARY, SECONDS = {TEXT!r}, {len(set(TEXT))}, 0.1\n"
    files = {"train.py": values + NANOGPT, "model.py": "", "configurator.py": "it", speedrun_nanogpt.CONFIG: "recipe"}
    for name, text in files.items():
        path = tmp_path / "nanoGPT" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(speedrun_ours, "OURS", [sys.executable, "ours.py", "train"])
    monkeypatch.setattr(speedrun_nanogpt, "LOSSES", tmp_path / "losses.py")
    monkeypatch.setitem(workload.PEERS, "nanogpt", dataclasses.replace(workload.PEERS["nanogpt"], needs=("numpy",)))
    return tmp_path


def test_whole_runs_by_turns(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(speedrun_ours, "TRIES", 1)
    monkeypatch.setattr(OurRun, "training_within", lambda self, seconds: seconds / 2)
    options = ["--loss", "2.0", "--rounds", "2", "--json", "bench.json", "--out", "picture.png"]
    assert main([*COMMAND, *AGAINST, *options]) == 0
    saved = json.loads((place / "bench.json").read_text())
    assert (place / "log.txt").read_text() == "AJAJ" and (place / "seeds.txt").read_text() == "1122"
    ours, peer = saved["ours"]["runs"], saved["peer"]["runs"]
    assert [loss for _, loss in ours[0]["curve"]] == [3.0, 2.5, 1.95, 1.85]  # of the weights that generate
    assert [loss for _, loss in peer[1]["curve"]] == [2.25, 1.9]
    assert all(run["seconds_to_loss"] == run["curve"][2][0] < run["seconds"] for run in ours)
    assert all(run["seconds_to_loss"] == run["curve"][1][0] < run["seconds"] for run in peer)
    ratios = [a["seconds_to_loss"] / b["seconds"] for a, b in zip(ours, peer, strict=True)]
    assert saved["ratio"] == pytest.approx(np.median(ratios))
    assert saved["ratio_spread"] == [min(ratios), max(ratios)]
    assert saved["ours_within"]["last_loss"]["median"] == 1.85 and saved["peer"]["seed"] == 1337
    assert [run["train_seconds"] for run in ours] == [None, None]
    within = saved["ours_within"]
    half = [run["seconds"] / 2 for run in peer]
    assert [run["train_seconds"] for run in within["runs"]] == pytest.approx(half, abs=1e-3)
    over = [max(a["seconds"] - b["seconds"], 0) for a, b in zip(within["runs"], peer, strict=True)]
    assert within["over_s"] == over
    assert [(model["config"], model["steps"]) for model in saved["sizes"]["models"]] == [("char.toml", 4)]
    assert saved["versions"]["nanogpt"] == {"torch": "3"} and saved["machine"]["device"] == "cpu"
    assert (place / "picture.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert f"jaxllm reaches 2 in {saved['ratio']:.3f} of nanogpt's whole run" in printed
    assert "nanogpt has the seed 1337 in every round" in printed


def test_ours_alone_and_a_loss_never_reached(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORSE", "0.25")
    assert main([*COMMAND, "--loss", "2.0", "--rounds", "1", "--json", "bench.json"]) == 1
    saved = json.loads((place / "bench.json").read_text())
    assert saved["peer"] is None is saved["ratio"] and saved["ours"]["seconds_to_loss"] is None
    assert (place / "log.txt").read_text() == "A"
    assert capsys.readouterr().err == (
        "jaxllm bench: 1 of 1 runs of char.toml never reached a validation loss of 2; the lowest was 2.1000: train "
        "longer or give another --loss.\n"
    )


def test_a_side_that_fails(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "nanoGPT" / "train.py").write_text("raise MemoryError('no more of it')")
    assert main([*COMMAND, *AGAINST]) == 1
    assert capsys.readouterr().err == "jaxllm bench: the process of nanogpt ended: MemoryError: no more of it.\n"


def test_a_loss_of_the_other_side_that_is_not_finite(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "nanoGPT" / "train.py"
    path.write_text(path.read_text().replace('"1.9"', '"nan"'))
    assert main([*COMMAND, *AGAINST, "--json", "bench.json"]) == 1
    error = capsys.readouterr().err
    assert "the validation loss of nanogpt is nan after" in error and error.count("\n") == 1
    assert not (place / "bench.json").exists()


WRONG = {
    "missing.toml": "cannot read the config missing.toml",
    "char.toml --rounds 0": "--rounds is 0",
    "char.toml --loss 0": "--loss is 0.0, but it must be a number above 0",
    "char.toml --loss nan": "--loss is nan",
    "char.toml --out picture.txt": "--out picture.txt: the name of the file must end in .png",
    "char.toml --json figures.txt": "--json figures.txt",
    "char.toml --peer nanoGPT": "--peer is for a bench --against another program",
    "char.toml --for-its-time char.toml": "--for-its-time is for a bench --against another program",
    "char.toml --set train.seed=5": "--set train.seed=5: the seed of a run is the number of its round",
    "char.toml --set data.source=no.txt": "data.source 'no.txt' is no file or folder",
    "char.toml --against nanogpt --peer .": "there is no model.py in it",
    "char.toml --against nanogpt --peer half": "there is no train.py in it",
    "char.toml --against nanogpt --peer nanoGPT --peer-python false": "needs a Python with numpy, which false is not",
    "char.toml --against nanogpt --peer nanoGPT --set tokenizer.kind=word": "tokenizer.kind is 'word'",
    "char.toml --against nanogpt --peer nanoGPT --for-its-time other.toml": "other.toml is on another text",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input(words: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found before anything is trained."""
    (place / "half").mkdir()
    (place / "half" / "model.py").write_text("")
    (place / "other.txt").write_text(TEXT[1:])
    (place / "other.toml").write_text(CONFIG.replace("text.txt", "other.txt"))
    assert main(["bench", "speedrun", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm bench: ") and WRONG[words] in error and error.count("\n") == 1
    assert not (place / "log.txt").exists()


def test_our_command_is_one_of_ours() -> None:
    (recipe,) = load_recipes(["char.toml"], ["train.steps=5"], None)
    words = recipe.command(Path("out"), ["train.seed=3"])
    arguments = build_parser().parse_args(words[2:])
    assert arguments.config == "char.toml" and arguments.overrides == ["train.steps=5", "train.seed=3"]


def our_run(seconds: float) -> OurRun:
    return OurRun(seconds, ((1.0, 2.0),), 0, "xla", None, around_s=5.0, between=0.25)


def test_the_time_of_the_other_side_is_not_exceeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of 12 s in all, of which 5 are around the training and a fifth of the rest goes to evaluations."""
    monkeypatch.setattr(speedrun_ours, "MARGIN", 1.0)
    assert our_run(12.0).training_within(30.0) == 20.0
    (recipe,) = load_recipes(["char.toml"], [], None)
    took, settings = [31.0, 29.0, 28.0], []

    def train(recipe: object, seed: int, *given: str) -> OurRun:
        settings.append(given)
        return our_run(took[len(settings) - 1])

    monkeypatch.setattr(speedrun_ours, "train_ours", train)
    assert train_ours_within(recipe, 1, 30.0, our_run(12.0)).seconds == 29.0
    assert settings[0] == ("train.seconds=20.000", "train.steps=1000000")
    with pytest.raises(RunError, match="took 4.0 s, but char.toml needs 5.0 s"):
        train_ours_within(recipe, 1, 4.0, our_run(12.0))


@pytest.mark.parametrize(("seconds", "longer"), [(30.0, False), (31.5, True)])
def test_a_run_longer_than_the_other_sides_is_called_longer(seconds: float, longer: bool) -> None:
    recipes, peer = load_recipes(["char.toml"], [], None), Program("nanogpt", "nanoGPT", sys.executable)
    one = Round(our_run(12.0), WholeRun(30.0, ((30.0, 2.0),)), {}, our_run(seconds))
    figures = make_figures(recipes, peer, [one], 2.0)
    assert figures["ours_within"]["over_s"] == [1.5 if longer else 0.0]
    lines = [line.split() for line in table(figures)]
    assert (["longer", "than", "nanogpt's,", "by", "up", "to", "1.5"] in lines) is longer
    assert ("longer" in round_line(one, 2.0)) is longer


def test_crossing_and_lines_in_parts(place: Path) -> None:
    run = WholeRun(9.0, ((1.0, 3.0), (2.0, 1.9), (3.0, 1.95)))
    assert (run.seconds_to(1.9), run.seconds_to(1.8), run.lowest, run.loss) == (2.0, None, 1.9, 1.95)
    tail = Tail(place / "lines.txt")
    assert tail.lines() == []
    (place / "lines.txt").write_text("one\ntw")
    assert tail.lines() == ["one"] and tail.lines() == []
    (place / "lines.txt").write_text("one\ntwo\n")
    assert tail.lines() == ["two"]


MODEL = """
import torch
from dataclasses import dataclass

@dataclass
class GPTConfig:
    block_size: int
    vocab_size: int

class GPT(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.scores = torch.nn.Parameter(torch.zeros(config.block_size, config.vocab_size, config.vocab_size))

    def forward(self, tokens, targets):
        logits = self.scores[torch.arange(tokens.shape[1]), tokens]
        return logits, torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""


def test_the_losses_of_checkpoints_are_those_of_our_windows(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose logits depend on the token and on the position in the window."""
    torch = pytest.importorskip("torch", reason="needs the extra `peers`")
    (place / "model.py").write_text(MODEL)
    rng = np.random.default_rng(0)
    ids, scores = rng.integers(5, size=4 * 70 + 3).astype(np.uint16), rng.normal(size=(4, 5, 5))
    checkpoint = {"model_args": {"block_size": 4, "vocab_size": 5}, "model": {"scores": torch.tensor(scores)}}
    torch.save(checkpoint | {"iter_num": 250, "best_val_loss": torch.tensor(1.0)}, place / "ckpt.pt")
    monkeypatch.syspath_prepend(str(workload.FOLDER))
    script = importlib.import_module("nanogpt_losses")
    model = script.load_gpt(script.load_model_module(str(place)), str(place / "ckpt.pt"))
    loss = script.whole_loss(model, torch.from_numpy(ids.astype(np.int64)))
    log_probabilities = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    total = sum(
        -(log_probabilities[np.arange(4), inputs, targets] * weights).sum()
        for inputs, targets, weights in evaluation_batches(ids, 4, 8)
    )
    assert loss == pytest.approx(total / (len(ids) - 1), rel=1e-6)


@pytest.mark.parametrize("script", ["ours.py", "losses.py"])
def test_a_terminated_bench_ends_its_process(script: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves no temporary folder; also while nanoGPT's checkpoints are evaluated."""
    (place / script).write_text("import os, time\nopen('pid.txt', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    (place / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temporary"))

    def terminate() -> None:
        while not (place / "pid.txt").exists() or not (place / "pid.txt").read_text():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    assert main([*COMMAND, *(AGAINST if script == "losses.py" else [])]) == 143
    assert not [*(place / "temporary").glob("jaxllm-*")]
    with pytest.raises(ProcessLookupError):
        os.kill(int((place / "pid.txt").read_text()), 0)
