"""Wrong input: exit code 2, one sentence with the value, the limit and the fix, and nothing overwritten."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from train.cli import build_parser, main

pytestmark = pytest.mark.usefixtures("quick_compilation")

OK = '[data]\nsource = "text.txt"\n[model]\ncontext_length = 8\nd_model = 8\nn_layers = 1\nn_heads = 2\n[train]\nsteps = 200\n'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("some words, and again some words. " * 9)
    (tmp_path / "ok.toml").write_text(OK)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "lines.JSONL").write_text('{"body": "some words"}')
    (tmp_path / "broken.toml").write_text("[data\n")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    return tmp_path


def files(place: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}


FEW_STEPS = ["--set", "train.steps=2", "--set", "optimizer.warmup_steps=1", "--set", "eval.sample_tokens=3"]

WRONG_SET = {
    "data.source=missing.txt": "'missing.txt' is no file or folder",
    "data.source=empty.txt": "holds no text",
    "data.source=2024": "data.source '2024' is no file or folder",
    "data.sha256=10": "not the same number and 10 that the config states",
    "data.source=lines.JSONL": "line 1 of lines.JSONL has no text under 'text'; its texts are body: name one with --field, or in a config with data.field",
    "data.source=latin.txt": "not UTF-8: byte 0xe9 at offset 3",
    "data.source=tinyshakespear": "did you mean tinyshakespeare?",
    "model.context_length=1000": "the text has 306 tokens, 275 to train on and 31 to validate on, but model.context_length = 1000",
    "model.d_model=9": "model.d_model is 9, which is not divisible by model.n_heads = 2",
    "model.n_kv_heads=3": "not divisible by model.n_kv_heads = 3",
    "model.d_modle=8": "model.d_modle is no config field; did you mean d_model",
    "modle.d_model=8": "[modle] is no section of a config; did you mean model",
    "nonsense.x=1": "valid names are data, tokenizer, model",
    "model.d_model=eight": "model.d_model is 'eight', but it must be an integer",
    "model.d_model=8.5": "model.d_model is 8.5, but it must be an integer",
    "model.d_model=-8": "model.d_model is -8, but it must be an integer >= 1",
    "model.use_bias=1": "model.use_bias is 1, but it must be true or false",
    "model.activation=swish": "must be one of 'gelu_tanh', 'gelu', 'relu'",
    "model.dropout=1": "model.dropout is 1, but it must be a number < 1",
    "model.vocab_size=5": "model.vocab_size is 5, smaller than the tokenizer's 14",
    "tokenizer.kind=bpe": "tokenizer.vocab_size is missing",
    "tokenizer.kind=bytes": "must be one of 'char', 'word', 'bpe', 'gpt2', 'file'",
    "tokenizer.vocab_size=100": "kind = 'char' has a size of its own",
    "train.steps=0": "train.steps is 0, but it must be an integer >= 1",
    "train.steps=50": "optimizer.warmup_steps is 100, but there are only train.steps = 50",
    "train.seed=-1": "train.seed is -1",
    "train.seed=4294967296": "must be an integer <= 2147483647",
    "train.warmup_steps=1": "train.warmup_steps is no config field",
    "optimizer.warmup_steps=4294967296": "must be an integer <= 2147483647",
    "eval.prompt=\udc80": "no valid text",
    "data.source=\udc80": "no valid text",
    f"data.source={'x' * 300}": "cannot read data.source",
    "train.grad_accumulation=5": "train.batch_size is 12, which is not divisible by train.grad_accumulation = 5",
    "train.dtype=float16": "must be one of 'float32', 'bfloat16'",
    "optimizer.learning_rate=nan": "optimizer.learning_rate is nan",
    "optimizer.learning_rate=inf": "must be a finite number",
    "optimizer.learning_rate=0": "must be a number > 0",
    "optimizer.learning_rate=1e-5": "optimizer.min_learning_rate is 0.0001, above",
    "optimizer.beta2=1": "optimizer.beta2 is 1",
    "optimizer.name=adam": "must be one of 'adamw'",
    "eval.prompt=ü": "eval.prompt: character 'ü' (U+00FC) at position 0 is not among the 14 characters",
    "data.sha256=00": "not the same number and 00 that the config states",
    "data=3": "--set 'data=3' is not understood; write --set section.key=value",
    "train.steps": "--set 'train.steps' is not understood",
    "eval.sample_tokens=100001": "eval.sample_tokens is 100001, but it must be an integer <= 100000",
    "model.n_layers=1001": "model.n_layers is 1001, but it must be an integer <= 1000",
    "model.context_length=16777217": "model.context_length is 16777217, but it must be an integer <= 16777216",
    "model.d_model=131073": "must be an integer <= 131072",
    "train.batch_size=1048577": "must be an integer <= 1048576",
    "train.max_skipped=-1": "train.max_skipped is -1, but it must be an integer >= 0",
    "train.deterministic=yes": "train.deterministic is 'yes', but it must be true or false",
    "checkpoint.keep=0": "checkpoint.keep is 0, but it must be an integer >= 1",
    "checkpoint.keep_best=-1": "checkpoint.keep_best is -1",
    "data.source=/dev/zero": "cannot read /dev/zero: it is no regular file",
}


@pytest.mark.parametrize("setting", WRONG_SET)
def test_wrong_settings(setting: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    assert main(["train", "ok.toml", "--out", "run", "--set", setting]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm train: ") and error.count("\n") == 1
    assert WRONG_SET[setting] in error
    assert files(place) == before and not (place / "run").exists()


WRONG_COMMANDS = {
    "train": "name a config file",
    "train --resume": "name a config file",
    "train missing.toml": "cannot read the config missing.toml",
    "train .": "cannot read the config .",
    "train broken.toml": "broken.toml is not a TOML file",
    "train latin.txt": "latin.txt is not a TOML file",
    "train ok.toml --out full": "full is not empty; choose another folder",
    "train ok.toml --out text.txt": "text.txt is a file; choose another folder",
    f"train ok.toml --out {'x' * 300}": "cannot be used: ",
    "train ok.toml --out \udc80": "cannot be used: ",
    "train ok.toml --out text.txt/run": "cannot write into text.txt/run",
    "train --out full --resume": "full is no run folder",
    "train ok.toml --fall-back": "--fall-back is for continuing a run; give it together with --resume",
    "train ok.toml --set eval.every=3 --set checkpoint.every=5 --set checkpoint.keep_best=1": "make checkpoint.every = 5 a multiple of eval.every = 3",
    "train /dev/zero": "cannot read the config /dev/zero: it is no regular file",
    "checkpoint list full": "full is no run folder",
    "checkpoint verify missing": "missing is no run folder",
    "compare ok.toml --step 3": "--step is '3', but only a run folder has steps",
    f"generate full --prompt {'a' * 1_000_001}": "--prompt has 1,000,001 characters, but it must have at most 1,000,000",
    "generate full --prompt a": "full is no run folder",
    "generate missing --prompt a": "missing is no run folder",
    "generate full --prompt a --temperature -1": "--temperature is -1.0, but it must be a finite number",
    "generate full --prompt a --temperature nan": "--temperature is nan",
    "generate full --prompt a --top-k 0": "--top-k is 0, but it must be at least 1",
    "generate full --prompt a --top-p 0": "--top-p is 0.0",
    "generate full --prompt a --min-p 2": "--min-p is 2.0",
    "generate full --prompt a --max-new-tokens 0": "--max-new-tokens is 0, but it must be from 1 to 100,000",
    "generate full --prompt a --seed -1": "--seed is -1",
    "evaluate missing": "missing is no run folder",
}


@pytest.mark.parametrize("command", WRONG_COMMANDS)
def test_wrong_commands(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(place)
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxllm {command.split()[0]}: ") and error.count("\n") == 1
    assert WRONG_COMMANDS[command] in error
    assert files(place) == before


@pytest.mark.parametrize(
    "command", ["", "trian", "train ok.toml --ste x", "generate", "generate r --prompt a --top-k x"]
)
def test_a_mistyped_command_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--help" in error


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "attention", "inspect"])
def test_help_shows_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    example = capsys.readouterr().out.split("example:")[1].strip()
    assert example.startswith(f"jaxllm {command} ")
    import shlex

    build_parser().parse_args(shlex.split(example)[1:])  # the example is accepted


@pytest.mark.newest
def test_an_existing_run_is_not_overwritten(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ok.toml", "--out", "run", *FEW_STEPS]) == 0
    (place / "odd" / "config.toml").mkdir(parents=True)
    before = files(place)
    refused = {
        "train ok.toml --out run": "run holds a run; continue it by `jaxllm train --out run --resume`",
        "train --out run --resume --set model.d_model=16": "model.d_model was 8 in this run and cannot become 16",
        "train --out run --resume --set optimizer.learning_rate=1": "optimizer.learning_rate was 0.001",
        "train ok.toml --out run --resume": "train.steps is 2 in run but 200 in ok.toml",
        "generate run --prompt ü": "character 'ü'",
        "evaluate run --data empty.txt": "holds no text",
        "compare run --batch-size 9": "--batch-size is 9, but the validation split has 3 windows of 8 tokens",
        "evaluate odd": "cannot read the config odd/config.toml: Is a directory",
    }
    for command, message in refused.items():
        capsys.readouterr()
        assert main(command.split()) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert files(place) == before
    (place / "text.txt").write_text("another text " * 30)
    assert main(["train", "--out", "run", "--resume", "--set", "train.steps=4"]) == 2
    assert "the text has changed" in capsys.readouterr().err


def test_unreadable_checkpoints(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    assert main(["train", "ok.toml", "--out", "run", *FEW_STEPS]) == 0
    monkeypatch.setattr("train.runs.load.Checkpoints", refuse)
    capsys.readouterr()
    assert main(["evaluate", "run"]) == 2
    assert capsys.readouterr().err == "jaxllm evaluate: cannot read run/checkpoints: Permission denied.\n"


@pytest.mark.newest
def test_a_run_that_does_not_fit_warns_and_ends_in_a_sentence(place: Path) -> None:
    """A model of 200 billion parameters, in a process of its own. Where JAX computes in other threads than the calling
    one, as it may in the process of the tests, it waits without end for an array that could not be allocated."""
    command = [sys.executable, "-m", "train", "train", "ok.toml", "--out", "huge", "--set", "model.d_model=131072"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([*command, *FEW_STEPS], capture_output=True, text=True, env=environment, timeout=300)
    error = done.stderr.splitlines()
    assert done.returncode == 1 and len(error) == 2, done.stderr
    assert error[0].startswith("warning: the run needs about ")
    assert "make model.d_model or model.n_layers smaller" in error[0]
    assert error[1].startswith("jaxllm train: there is not enough memory")


def test_a_run_that_may_not_fit_gets_a_warning(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.commands.train_report.available_bytes", lambda: 10**5)
    assert main(["train", "ok.toml", "--out", "run", *FEW_STEPS, "--set", "train.batch_size=120"]) == 0
    out, error = capsys.readouterr()
    assert "raise train.grad_accumulation" in error and "would fit" in error and "0.00 GiB are free" in out


def closed_pipe() -> io.TextIOWrapper:
    """A pipe without a reader, as after `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("train.commands.compare.run", lambda _: print("a table"))
    for stream, code, message in (
        (closed_pipe(), 141, ""),
        (open("/dev/full", "w"), 1, "jaxllm compare: output: No space left on device.\n"),
    ):
        with stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert main(["compare"]) == code
        assert capsys.readouterr().err == message


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # in place of permissions, which do not bind a superuser
    assert main(["compare", "--out", "error.PNG"]) == 2
    assert capsys.readouterr().err == "jaxllm compare: --out error.PNG: its folder cannot be written into.\n"
