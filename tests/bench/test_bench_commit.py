"""`jaxllm bench ... --against-commit`: another commit of a small repository beside its working tree."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from repositories import ROOT, commit, copy_code, edit, generating, git, training

from jaxllm import GPTConfig, __version__
from jaxllm.utils.errors import InputError
from train.bench import alternate, generate_recording
from train.bench.commit import fitted_job
from train.bench.weights import share_weights
from train.cli import main

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.newest,
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]

TINY = """
[model]
vocab_size = 32
context_length = 8
d_model = 8
n_layers = 1
n_heads = 2
[train]
steps = 6
batch_size = 4
[optimizer]
warmup_steps = 3
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, a copy of this code to make a repository of, and a folder for temporary files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(alternate, "TURN_S", 0.06)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    (tmp_path / "tiny.toml").write_text(TINY)
    monkeypatch.setattr(alternate, "ROOT", copy_code(tmp_path))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


BENCH = ["bench", "train", "tiny.toml", "--rounds", "1", "--against-commit"]


def test_an_older_commit_beside_ours(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commit has another version, begins from other weights, and lacks a field of [train]."""
    code = place / "code"
    edit(code / "jaxllm/__init__.py", f'__version__ = "{__version__}"', '__version__ = "0.0.7"')
    edit(code / "train/state.py", "jax.random.key(seed)", "jax.random.key(seed + 7)")
    config = (code / "train/config.py").read_text().splitlines(keepends=True)
    (code / "train/config.py").write_text("".join(line for line in config if "    deterministic:" not in line))
    name = commit(place, "Begin")
    for file in ("jaxllm/__init__.py", "train/state.py", "train/config.py"):
        shutil.copy(ROOT / file, code / file)
    commit(place, "Go on")
    files = sorted(code.rglob("*"))
    assert main([*BENCH, "HEAD~1", "--json", "bench.json"]) == 0
    saved = json.loads((place / "bench.json").read_text())
    assert saved["against"] == name and saved["versions"][name]["jaxllm"] == "0.0.7"
    assert saved["versions"]["jaxllm"] == __version__
    assert saved["ours"]["first_loss"] == saved["peer"]["first_loss"] and saved["loss_difference"] < 1e-6
    head = git(place, "rev-parse", "HEAD").strip()
    assert saved["commits"]["ours"] == {"commit": head, "uncommitted_changes": False}
    assert saved["commits"]["peer"]["rev"] == "HEAD~1" and saved["commits"]["peer"]["commit"].startswith(name)
    printed = capsys.readouterr().out
    assert f"jaxllm is the working tree, {head[: len(name)]} without changes\n{name} is HEAD~1: Begin\n" in printed
    assert f"jaxllm is {saved['ratio']:.3f} times as fast as {name}" in printed
    left = [path for path in sorted(code.rglob("*")) if "__pycache__" not in path.parts]
    assert left == files and not list((place / "temporary").iterdir())


def test_the_commits_own_code_runs(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where Python searches neither the working folder nor the script's; the commit begins."""
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    training(place, "B")
    name = commit(place, "Begin")
    training(place, "A")
    assert main([*BENCH, "HEAD"]) == 0
    assert (place / "log.txt").exists()
    log = (place / "log.txt").read_text()
    assert log.startswith("BAAABB") and log.count("A") == log.count("B")
    assert f"jaxllm is the working tree, {name} with uncommitted changes" in capsys.readouterr().out


def test_losses_that_differ(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training(place, "B", shift="0.004")
    commit(place, "Begin")
    training(place, "A")
    assert main([*BENCH, "HEAD"]) == 1
    assert "the losses differ by 4.0e-03 relative, more than 1e-03" in capsys.readouterr().out


def test_a_loss_of_the_commit_that_is_not_finite(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    training(place, "B", shift="float('nan')")
    name = commit(place, "Begin")
    training(place, "A")
    assert main([*BENCH, "HEAD"]) == 1
    assert f"the loss of {name} is nan" in capsys.readouterr().err


GENERATE = ["bench", "generate", "tiny.toml", "--rounds", "1", "--new-tokens", "5", "--against-commit", "HEAD"]


@pytest.mark.parametrize(
    ("weights", "gap", "code", "said"),
    [
        ("float32", 0.01, 1, "differ"),
        ("float32", 0.0001, 0, "near-tie"),
        ("int8", 0.01, 0, "near-tie"),
        ("int8", 0.1, 1, "differ"),
    ],
)
def test_texts_of_several_lengths(
    weights: str, gap: float, code: int, said: str, place: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(generate_recording, "BANDWIDTH_BYTES", 2**20)
    generating(place, "B")
    name = commit(place, "Begin")
    generating(place, "A", gap)
    words = [*GENERATE, "--weights", weights, "--batch-size", "1", "2", "--prompt-tokens", "4", "--json", "bench.json"]
    assert main(words) == code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.split()[1:2] == ["4"]] == ["same", said]
    assert sum("text 1 parts at token 2" in line for line in lines) == 1 and max(map(len, lines)) <= 100
    assert name in next(line for line in lines if line.startswith("texts"))
    rows = json.loads((place / "bench.json").read_text())["rows"]
    assert [row["sizes"]["batch_size"] for row in rows] == [1, 2] and rows[0]["commits"]["peer"]["rev"] == "HEAD"
    for side in ("ours", "peer"):  # of which another program would read float32
        assert rows[0][side]["weight_bytes"] == 1000
    assert (place / "log.txt").read_text().startswith("BA")


def test_a_stopped_bench_leaves_nothing(place: Path) -> None:
    """Neither files nor processes, when the user presses Ctrl-C in the commit's first step."""
    training(place, "B", seconds=1000)
    commit(place, "Begin")
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from train.bench import alternate
from train.cli import main
alternate.ROOT = Path("code").absolute()
sys.exit(main({[*BENCH, "HEAD"]}))
"""
    temporary = place / "temporary"
    bench = subprocess.Popen(
        [sys.executable, "-c", program], env=os.environ | {"TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True
    )
    while not (place / "log.txt").exists() and bench.poll() is None:
        time.sleep(0.01)
    assert [path.name.rsplit("-", 1)[0] for path in sorted(temporary.iterdir())] == ["jaxllm-bench", "jaxllm-commit"]
    bench.send_signal(signal.SIGINT)
    assert bench.communicate(timeout=60)[1] == "jaxllm bench: stopped\n" and bench.returncode == 130
    assert not list(temporary.iterdir())


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence that a command prints; nothing else is printed or left behind."""
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert error.startswith("jaxllm bench: ") and error.count("\n") == 1 and not list(Path("temporary").iterdir())
    return error if not out else f"{out}{error}"


def test_unknown_commits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(place, "Begin")
    for rev in ("HEAD~5", "nonsense", "", "HEAD..HEAD", "HEAD:train"):
        assert refused([*BENCH, rev], capsys) == (
            f"jaxllm bench: --against-commit {rev}: git knows no such commit; name a hash, a tag, a branch or HEAD~N.\n"
        )


def test_a_commit_before_the_worker(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = place / "code/train/bench/train_worker.py"
    worker.unlink()
    name = commit(place, "Begin")
    shutil.copy(ROOT / "train/bench/train_worker.py", worker)
    error = refused([*BENCH, "HEAD"], capsys)
    assert error.startswith(f"jaxllm bench: --against-commit HEAD: {name} has no train/bench/train_worker.py, the pro")


def test_a_commit_that_does_not_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    worker = place / "code/train/bench/train_worker.py"
    worker.write_text("import nonsense\n")
    name = commit(place, "Begin")
    error = refused([*BENCH, "HEAD"], capsys)
    assert f"the code of {name} does not run here: ModuleNotFoundError: No module named 'nonsense'; name" in error


@pytest.mark.parametrize("around", [True, False])
def test_code_in_no_checkout(
    around: bool, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An installed package, and one within a repository of the user."""
    commit(place, "Begin")
    where = place / "code/jaxllm" if around else place
    monkeypatch.setattr(alternate, "ROOT", where)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(place.parent))
    error = refused([*BENCH, "HEAD"], capsys)
    assert f"--against-commit needs a git checkout of jaxllm, but this code lies in {where}" in error
    assert ("fatal: not a git repository" in error) is not around


def test_no_git(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PATH", str(place))
    error = refused([*BENCH, "HEAD"], capsys)
    assert error == "jaxllm bench: --against-commit needs git, which cannot be started: No such file or directory.\n"


def test_one_other_side(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*BENCH, "HEAD", "--against", "hf"])
    assert stop.value.code == 2 and "not allowed with argument --against-commit" in capsys.readouterr().err
    assert "--peer-python is for a bench --against another" in refused([*BENCH, "HEAD", "--peer-python", "x"], capsys)


def test_a_field_that_the_commit_does_not_know() -> None:
    """It is left out with its default, and refused with another value."""
    model = asdict(GPTConfig(vocab_size=32, sliding_window=4))
    job = {"model": model, "weights": "int8"}
    known = {"model": [field for field in model if field != "dropout"]}
    fitted = fitted_job(job, known, "1234567")
    assert fitted["model"] == {field: value for field, value in model.items() if field != "dropout"}
    assert fitted["weights"] == "int8" and job["model"] is model and "dropout" in model
    known["model"].remove("sliding_window")
    with pytest.raises(InputError, match="model.sliding_window is 4, but 1234567 does not know this field; leave it"):
        fitted_job(job, known, "1234567")


def test_weights_go_from_side_to_side(place: Path) -> None:
    weights = str(place / "weights.npz")
    params = {"a": {"b": np.arange(3.0, dtype=np.float32)}, "c": np.ones((2, 2), np.float32)}
    saved, seconds = share_weights(params, {"save_weights": weights, "load_weights": None})
    assert saved is params and seconds > 0
    zeros = {"a": {"b": np.zeros(3, np.float32)}, "c": np.zeros((2, 2), np.float32)}
    loaded, seconds = share_weights(zeros, {"save_weights": None, "load_weights": weights})
    assert loaded["a"]["b"].tolist() == [0, 1, 2] and loaded["c"].tolist() == [[1, 1], [1, 1]] and seconds > 0
    half = {"a": {"b": np.zeros(3, np.float32)}, "c": np.ones((2, 2), np.float32)}
    loaded, _ = share_weights(half, {"save_weights": None, "load_weights": weights})
    assert loaded["c"] is half["c"] and loaded["a"]["b"].tolist() == [0, 1, 2]  # equal ones stay where they are
    other = {"a": {"b": np.zeros(4, np.float32)}, "d": zeros["c"]}
    with pytest.raises(SystemExit, match="other side's parameters have other names or shapes: a/b, c, d"):
        share_weights(other, {"save_weights": None, "load_weights": weights})
