"""`jaxllm bench generate`: both sides as scripts, our real side on a tiny model, and the peers if installed."""

import dataclasses
import importlib.util
import json
import os
import sys
from pathlib import Path

import jax
import pytest

from jaxllm import GPT, GPTConfig
from jaxllm.compare import random_parameters
from jaxllm.fast.quantised_weights import pack
from train.bench import alternate, generate_recording, workload
from train.bench.generate_worker import weight_bytes
from train.cli import main

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

ROOT = Path(__file__).parents[2]
TINY = """
[model]
vocab_size = 32
context_length = 16
d_model = 8
n_layers = 1
n_heads = 2
dropout = 0.1
activation = "gelu"
"""
# Either side. Arguments: its name, which each text logs; seconds of a token; what `compare` answers.
SCRIPT = f"""
import json, sys, time
import numpy as np
sys.path.insert(0, {str(ROOT)!r})
from train.bench.peers.protocol import serve_generation
name, seconds, compared = sys.argv[1], float(sys.argv[2]), sys.argv[3]

class Side:
    weights_s = 0.0
    def __init__(self, job):
        print("building, which is no answer")
        self.n = job["new_tokens"]
        if job.get("save_weights"):
            open(job["save_weights"], "w").write("weights")
        if job.get("load_weights"):
            assert open(job["load_weights"]).read() == "weights"
    def write(self, prompts):
        assert prompts.shape == (2, 3) and str(prompts.dtype) == "int32" and 0 <= prompts.min() <= prompts.max() < 32
        open("log.txt", "a").write(name)
        time.sleep(4 * seconds)
        first_at = time.perf_counter()
        time.sleep((self.n - 1) * seconds)
        return np.zeros((2, self.n), np.int32), first_at
    def logits(self, prompts):
        return np.zeros((2, 32), np.float32)
    def about(self):
        sizes = dict(n_parameters=1, weight_bytes=1000, float32_weight_bytes=4000)
        return dict(device="cpu", platform="cpu", versions=dict(python="3"), **sizes)
    def answer(self, message):
        if "compare" in message:
            assert name == "A" and np.load(message["compare"])["tokens"].shape == (2, self.n)
            return json.loads(compared)
        return dict(bytes_per_s=1e6)
    def close(self):
        return dict(peak_bytes=2**20)

serve_generation(Side)
"""
# The peer: our reference.
TWIN = f"""
import sys
import numpy as np
sys.path.insert(0, {str(ROOT)!r})
from jaxllm.config import GPTConfig
from jaxllm.reference.gpt import forward
from train.bench.peers.protocol import serve_generation

class Twin:
    weights_s = 0.0
    def __init__(self, job):
        self.n, self.config, self.params = job["new_tokens"], GPTConfig(**job["model"]), {{}}
        for name, value in np.load(job["load_weights"]).items():
            *path, last = name.split("/")
            part = self.params
            for step in path:
                part = part.setdefault(step, {{}})
            part[last] = value
    def write(self, prompts):
        text = prompts
        for i in range(self.n):
            logits = self.logits(text[:, -self.config.context_length:])
            token = logits.argmax(-1) if text.shape[1] <= self.config.context_length else logits.argmin(-1)
            if i == 2:
                token[1] = logits[1].argmin()
                open("gap.txt", "w").write(str(logits[1].max() - logits[1].min()))
            text = np.concatenate([text, token[:, None]], 1)
        return text[:, prompts.shape[1]:], 0.0
    def logits(self, text):
        return forward(self.config, self.params, text)[:, -1]
    def about(self):
        return dict(device="cpu", platform="cpu", versions=dict(python="3"))
    def close(self):
        return dict(peak_bytes=2**20)

serve_generation(Twin)
"""
SAME = '{"logits_difference":1e-6,"tokens":5,"parted":[]}'
BENCH = ["bench", "generate", "tiny.toml", "--batch-size", "2", "--prompt-tokens", "3", "--new-tokens", "5"]
AGAINST = [*BENCH, "--against", "nanogpt", "--peer", ".", "--rounds", "2"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config and a stand-in for nanoGPT."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alternate, "TURN_S", 0.2)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "side.py").write_text(SCRIPT)
    (tmp_path / "model.py").write_text("")
    return tmp_path


def play(monkeypatch: pytest.MonkeyPatch, place: Path, compared: str = SAME) -> None:
    """Both sides by the script; a step of ours takes 10 ms, one of the peer's 20."""
    starter = place / "peer.py"
    starter.write_text("import runpy, sys\nsys.argv = ['side.py', 'B', '0.02', '']\nrunpy.run_path('side.py')\n")
    monkeypatch.setattr(generate_recording, "OURS", [sys.executable, str(place / "side.py"), "A", "0.01", compared])
    monkeypatch.setattr(alternate, "ROOT", place)
    monkeypatch.setitem(generate_recording.SCRIPTS, "nanogpt", starter)
    changed = dataclasses.replace(workload.PEERS["nanogpt"], needs=("numpy",))
    monkeypatch.setitem(workload.PEERS, "nanogpt", changed)


def test_both_sides_by_turns(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch, place)
    assert main([*AGAINST, "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    log, texts = (place / "log.txt").read_text(), saved["sizes"]["texts"]
    assert log.startswith("ABABAAB") and log.count("A") == log.count("B")  # a text, one to warm up, then turns
    assert log.count("A") == 2 + texts + 2  # one text of each turn of several is not timed
    ours, peer = saved["ours"], saved["peer"]
    assert 1 < saved["ratio"] and saved["ratio_spread"][0] <= saved["ratio"] <= saved["ratio_spread"][1]
    assert 10 <= ours["token_ms"] and 20 <= peer["token_ms"] and 40 <= ours["first_token_ms"] <= peer["first_token_ms"]
    assert 0 < ours["tokens_per_s"] <= 2 * 5 / 0.08 and len(ours["round_tokens_per_s"]) == 2
    assert ours["memory_traffic"] == pytest.approx(1000 / (ours["token_ms"] / 1e3) / 1e6)
    assert peer["memory_traffic"] == pytest.approx(4000 / (peer["token_ms"] / 1e3) / 1e6)
    assert saved["machine"]["bytes_per_s"] == 1e6 and saved["versions"]["nanogpt"] == {"python": "3"}
    printed = capsys.readouterr().out
    assert (
        f"jaxllm is {saved['ratio']:.3f} times as fast as nanogpt" in printed and "all tokens are the same" in printed
    )
    assert max(map(len, printed.splitlines())) <= 100 and "\x1b" not in printed


@pytest.mark.parametrize(
    ("compared", "code", "said"),
    [
        ('{"logits_difference":0.01,"tokens":5,"parted":[]}', 1, "more than 1e-03 apart"),
        ('{"logits_difference":0,"tokens":5,"parted":[{"row":1,"token":2,"gap":0.5}]}', 1, "text 2 parts at token 3: jaxllm prefers its own by 5.0e-01, no"),
        ('{"logits_difference":0,"tokens":5,"parted":[{"row":1,"token":2,"gap":1e-4}]}', 0, "text 2 parts at token 3: jaxllm prefers its own by 1.0e-04, a near"),
    ],
)  # fmt: skip
def test_texts_that_differ(
    compared: str,
    code: int,
    said: str,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    play(monkeypatch, place, compared)
    assert main([*AGAINST[:-1], "1", "--json", "bench.json"]) == code
    printed = capsys.readouterr().out
    assert said in printed and ("do not compute the same" in printed) == bool(code)
    assert json.loads((place / "bench.json").read_text())["compared"] == json.loads(compared)


def test_non_finite_logits(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    play(monkeypatch, place, '{"logits_difference":NaN,"tokens":5,"parted":[]}')
    assert main([*AGAINST[:-1], "1"]) == 1
    assert "are not finite" in capsys.readouterr().err


def test_other_weights_are_not_compared(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    play(monkeypatch, place, '{"logits_difference":9,"tokens":5,"parted":[]}')
    assert main([*AGAINST[:-1], "1", "--weights", "int8"]) == 0
    assert "tokens not compared: weights are int8 in jaxllm, float32 in nanogpt" in capsys.readouterr().out


def test_ours_and_the_reference(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Our real side against the NumPy twin with its weights.

    The twin writes the first text correctly; in the second it writes the least likely token at one place, and saves the
    gap of the logits. Beyond the context, which is not compared, it writes other tokens.
    """
    (place / "twin.py").write_text(TWIN)
    changed = dataclasses.replace(workload.PEERS["nanogpt"], needs=("numpy",))
    monkeypatch.setitem(workload.PEERS, "nanogpt", changed)
    monkeypatch.setitem(generate_recording.SCRIPTS, "nanogpt", place / "twin.py")
    monkeypatch.setattr(alternate, "TURN_S", 0.001)
    monkeypatch.setattr(generate_recording, "BANDWIDTH_BYTES", 2**20)
    assert main([*AGAINST[:-1], "1", "--json", "bench.json", "--new-tokens", "20"]) == 1
    saved = json.loads((place / "bench.json").read_text())
    assert saved["compared"]["logits_difference"] < 1e-5
    (part,) = saved["compared"]["parted"]
    assert (part["row"], part["token"]) == (1, 2)
    assert part["gap"] == pytest.approx(float((place / "gap.txt").read_text()), abs=1e-5)
    assert saved["sizes"]["rounds"] == 1 and saved["sizes"]["dropout"] == 0
    ours = saved["ours"]
    assert 0 < ours["first_token_ms"] < ours["first_text_s"] * 1e3 and ours["peak_bytes"] > 2**26
    assert saved["machine"]["bytes_per_s"] > 1e6 and saved["versions"]["jax"] == jax.__version__
    printed = capsys.readouterr().out
    assert saved["compared"]["tokens"] == 16 - 3 + 1
    assert "text 2 parts at token 3" in printed and "the first 14, drawn before the context is full" in printed


@pytest.mark.parametrize("tied", [True, False])
def test_bytes_that_a_step_reads(tied: bool) -> None:
    model = GPTConfig(vocab_size=32, context_length=16, d_model=8, n_layers=1, n_heads=2, tie_embeddings=tied, ngrams=2)
    params = random_parameters(GPT(model))
    rest = 9 * 8 + 6 * 8  # the maps' biases, three norms
    maps, scales = 12 * 8 * 8 + 32 * 8, 9 * 8 + 32  # with the head; nothing of n-grams and positions
    assert weight_bytes(params) == weight_bytes(pack(params)) == 4 * (maps + rest)
    assert weight_bytes(pack(params, "int8")) == maps + 4 * (scales + rest)


def test_several_lengths(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A row for each combination, wherever the config stands; one length is written as it always was."""
    play(monkeypatch, place)
    shapes = "((2, 3), (2, 4), (1, 3), (1, 4))"
    (place / "side.py").write_text(SCRIPT.replace("prompts.shape == (2, 3)", f"prompts.shape in {shapes}"))
    lengths = "bench generate --batch-size 2 1 --prompt-tokens 3 4 tiny.toml --new-tokens 5 --rounds 1".split()
    assert main([*lengths, "--json", "bench.json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("2, 1 x 5 tokens after prompts of 3, 4; ")
    assert lines[2].split()[:3] == ["texts", "prompt", "tokens/s"] and "ratio" not in lines[2]
    assert [line.split()[:2] for line in lines[3:7]] == [["2", "3"], ["2", "4"], ["1", "3"], ["1", "4"]]
    rows = json.loads((place / "bench.json").read_text())["rows"]
    sizes_of_rows = [(row["sizes"]["batch_size"], row["sizes"]["prompt_tokens"]) for row in rows]
    assert sizes_of_rows == [(2, 3), (2, 4), (1, 3), (1, 4)]
    assert f"{rows[3]['ours']['tokens_per_s']:,.1f}" == lines[6].split()[2] and rows[3]["peer"] is None
    last = "bench generate --batch-size 7 --prompt-tokens 3 --batch-size 2 tiny.toml --new-tokens 5 --rounds 1".split()
    assert main([*last, "--json", "one.json"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("2 x 5 tokens after prompts of 3; ")
    assert json.loads((place / "one.json").read_text()).keys() == rows[0].keys()


@pytest.mark.parametrize("words", [["x"], [""], ["1", "x"], ["1", "2.5"]])
def test_numbers_that_are_none(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["bench", "generate", "tiny.toml", "--batch-size", *words])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert (f"unrecognized arguments: {words[1]};" if len(words) > 1 else f"numbers value: {words[0]!r};") in error


WRONG = {
    "--batch-size 0": "--batch-size is 0, but it must be from 1 to 1,024.",
    "--prompt-tokens 0": "--prompt-tokens is 0, but it must be from 1 to 16.",
    "--prompt-tokens 4 17": "--prompt-tokens is 17, but it must be from 1 to 16.",
    "--batch-size 2 --batch-size 2000 --prompt-tokens 3 4": "--batch-size is 2000, but it must be from 1 to 1,024.",
    "--new-tokens 1": "--new-tokens is 1, but it must be from 2 to 100,000.",
    "--prompt-tokens 10 --new-tokens 7 --against hf --set model.activation=gelu_tanh": "--prompt-tokens 10 and --new-tokens 7 are together more than model.context_length = 16, where hf ends",
    "--rounds 0": "--rounds is 0, but it must be from 1 to 10,000.",
    "--json out.txt": "--json out.txt: the name of the file must end in .json",
    "--against nanogpt": "--against nanogpt needs --peer PATH",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_input(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(workload.PEERS, "hf", dataclasses.replace(workload.PEERS["hf"], needs=()))
    assert main([*BENCH, *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm bench: ") and WRONG[words] in error and error.count("\n") == 1


def test_unknown_weights(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*BENCH, "--weights", "int4"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and "invalid choice: 'int4'" in error and error.count("\n") == 1


@pytest.mark.parametrize("against", ["nanogpt", "hf"])
def test_the_peers_themselves(against: str, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights, the same tokens. nanoGPT's folder is named by NANOGPT."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        pytest.skip("needs the extra `peers`")
    if against == "nanogpt" and "NANOGPT" not in os.environ:
        pytest.skip("NANOGPT names no checkout of nanoGPT")
    activation = "gelu" if against == "nanogpt" else "gelu_tanh"
    peer = ["--peer", os.environ["NANOGPT"]] if against == "nanogpt" else []
    command = [*BENCH, "--set", f"model.activation={activation}", "--rounds", "1", "--against", against, *peer]
    assert main([*command, "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    assert saved["compared"]["logits_difference"] < 1e-5 and saved["compared"]["parted"] == []
