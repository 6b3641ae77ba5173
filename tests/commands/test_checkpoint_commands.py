"""Checkpoints in commands: steps by name, lists, damage, changed configs, runs of an earlier format."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import msgspec
import optax
import pytest
from runs import piped, write_config

from train.cli import main
from train.runs.arrays import named, read_arrays
from train.runs.checkpoint import Checkpoints
from train.runs.folder import RunFolder
from train.runs.load import load_run
from train.runs.manifest import read_manifest, rewrite
from train.state import TrainState

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

OLD = Path(__file__).parents[1] / "golden" / "run-v1"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    more = ["--set", "checkpoint.every=4", "--set", "checkpoint.keep=3", "--set", "checkpoint.keep_best=1"]
    assert main(["train", str(write_config(folder)), "--out", str(folder / "run"), *more]) == 0
    return folder / "run"


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.newest
def test_commands_take_a_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    losses = {}
    for step in ("4", "8", "12", "best"):
        assert main(["evaluate", str(run), "--step", step]) == 0
        lines = capsys.readouterr().out.splitlines()
        losses[step] = float(lines[2].split()[2])
    assert losses["best"] == min(losses.values()) < losses["4"]
    assert main(["generate", str(run), "--prompt", "the", "--step", "4", "--max-new-tokens", "1"]) == 0
    assert main(["compare", str(run), "--step", "4", "--length", "2"]) == 0
    assert "step 4" in capsys.readouterr().out
    for wrong in ("5", "worst", "-1", ""):
        assert main(["generate", str(run), "--prompt", "the", f"--step={wrong}"]) == 2
        assert "holds 4, 8, 12, and best" in (error := capsys.readouterr().err) and error.count("\n") == 1


@pytest.mark.newest
def test_listing_and_verifying(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["checkpoint", "list", str(mine)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["step", "4", "8", "12"]
    losses = {line.split()[0]: float(line.split()[1]) for line in listed[1:]}
    assert [line.split()[0] for line in listed if line.endswith("best")] == [min(losses, key=losses.__getitem__)]
    assert main(["checkpoint", "verify", str(mine)]) == 0
    assert capsys.readouterr().out.count("every byte is as it was written") == 3
    (mine / "checkpoints" / "8" / "state" / "manifest.ocdbt").write_bytes(b"x")
    assert main(["checkpoint", "verify", str(mine)]) == 1
    out = capsys.readouterr().out
    assert out.count("every byte") == 2 and "8/state/manifest.ocdbt has 1 bytes, not" in out
    shutil.rmtree(mine / "checkpoints")
    for command in ("list", "verify"):
        assert main(["checkpoint", command, str(mine)]) == 2
        assert "holds no checkpoint yet" in capsys.readouterr().err


@pytest.mark.newest
def test_verifying_prints_each_line_when_it_is_known(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also into a pipe, because reading a large checkpoint takes minutes."""

    def check(checkpoints: Checkpoints, step: int, like: object) -> None:
        printed.append(len((tmp_path / "out").read_text().splitlines()))

    printed: list[int] = []
    monkeypatch.setattr(Checkpoints, "check", check)
    with piped(tmp_path / "out"):
        assert main(["checkpoint", "verify", str(mine)]) == 0
    assert printed == [0, 1, 2]


@pytest.mark.newest
def test_a_changed_config_or_tokenizer_is_named(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, tokenizer = (mine / "config.toml").read_text(), (mine / "tokenizer.json").read_text()
    resume = ["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]
    read = ["generate", str(mine), "--prompt", "the", "--max-new-tokens", "1"]
    for old, new, commands, said in (
        (
            'activation = "gelu_tanh"',
            'activation = "relu"',
            (resume, read),
            "model.activation was 'gelu_tanh' when step 12",
        ),
        ("d_model = 16", "d_model = 32", (resume, read), "model.d_model was 16"),
        ("beta2 = 0.99", "beta2 = 0.9", (resume,), "optimizer.beta2 was 0.99 when step 12 was saved, but is 0.9"),
        ("seed = 0", "seed = 1", (resume,), "train.seed was 0"),
    ):
        (mine / "config.toml").write_text(config.replace(old, new))
        for command in commands:
            assert main(command) == 2
            assert said in (error := capsys.readouterr().err) and error.count("\n") == 1
    (mine / "config.toml").write_text(config.replace("every = 4", "every = 3"))
    assert main(read) == 0
    (mine / "config.toml").write_text(config)
    (mine / "tokenizer.json").write_text(tokenizer.replace('"a"', '"A"'))
    for command in (resume, read):
        assert main(command) == 2
        assert "not the one that step 12 was trained with" in capsys.readouterr().err


@pytest.mark.newest
def test_data_may_have_moved(mine: Path, tmp_path: Path) -> None:
    text = json.loads(f'"{(mine / "config.toml").read_text().split(chr(34))[1]}"')
    shutil.copy(text, tmp_path / "elsewhere.txt")
    config = (mine / "config.toml").read_text()
    (mine / "config.toml").write_text(config.replace(text, str(tmp_path / "elsewhere.txt")))
    assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=13"]) == 0


@pytest.mark.newest
def test_resuming_falls_back_when_asked(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "checkpoints" / "12" / "manifest.json").write_bytes(b"{}")
    before = {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()}
    assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]) == 2
    error = capsys.readouterr().err
    assert (
        "the checkpoint of step 12 is damaged" in error and "--resume --fall-back" in error and error.count("\n") == 1
    )
    assert {p: p.read_bytes() for p in mine.rglob("*") if p.is_file()} == before
    assert main(["train", "--out", str(mine), "--resume", "--fall-back"]) == 0
    assert "resuming after step 8 of 12" in capsys.readouterr().out
    assert load_run(mine).step == 12
    assert (mine / "checkpoints" / "12.damaged").exists()
    assert main(["train", "x.toml", "--fall-back"]) == 2
    assert "give it together with --resume" in capsys.readouterr().err


@pytest.mark.newest
def test_two_processes_do_not_train_in_one_folder(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RunFolder(mine).locked():
        assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=14"]) == 2
    assert "another process is training in" in capsys.readouterr().err


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of an earlier jaxllm, in checkpoint format 1."""
    monkeypatch.chdir(shutil.copytree(OLD, tmp_path / "old"))
    yield Path(".")


def test_format_1_can_still_be_read(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its validation loss is the recorded one."""
    assert main(["evaluate", str(old)]) == 0
    assert "validation loss  2.0473 nats per token" in capsys.readouterr().out
    assert main(["generate", str(old), "--prompt", "a", "--max-new-tokens", "3"]) == 0
    assert main(["checkpoint", "list", str(old)]) == 0
    assert "format 1" in capsys.readouterr().out
    assert main(["checkpoint", "verify", str(old)]) == 0
    assert main(["compare", str(old)]) == 0


@pytest.mark.newest
def test_a_run_from_before_a_field_was_added_can_be_resumed(mine: Path) -> None:
    """Neither its config nor its checkpoints have `data.field`."""
    (mine / "config.toml").write_text((mine / "config.toml").read_text().replace('field = "text"\n', ""))
    for step in Checkpoints(mine / "checkpoints").steps():
        folder = mine / "checkpoints" / str(step)
        manifest = read_manifest(folder)
        config = manifest.config | {"data": {k: v for k, v in manifest.config["data"].items() if k != "field"}}
        assert config != manifest.config
        rewrite(folder, msgspec.structs.replace(manifest, config=config))
    assert main(["evaluate", str(mine)]) == 0
    assert main(["train", "--out", str(mine), "--resume", "--set", "train.steps=13"]) == 0
    assert load_run(mine).config.data.field == "text"


@pytest.mark.newest
def test_a_run_of_format_1_is_resumed_in_format_2(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--out", str(old), "--resume", "--set", "train.steps=6", "--set", "checkpoint.keep=2"]) == 0
    assert Checkpoints(old / "checkpoints").steps() == [4, 6]
    assert main(["checkpoint", "verify", str(old)]) == 0
    assert "step         4  readable (format 1" in capsys.readouterr().out


def test_format_1_of_other_shapes_or_damaged_is_one_sentence(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = (old / "config.toml").read_text()
    (old / "config.toml").write_text(config.replace("d_model = 4", "d_model = 8"))
    assert main(["evaluate", str(old)]) == 2
    error = capsys.readouterr().err
    assert "parameter block_0/attention/key/bias is (4,) in" in error and "but (8,) by config.toml" in error
    (old / "config.toml").write_text(config)
    (old / "checkpoints" / "4" / "default" / "_METADATA").write_bytes(b"")
    assert main(["evaluate", str(old)]) == 2
    assert "the checkpoint of step 4 is damaged" in (error := capsys.readouterr().err) and error.count("\n") == 1


@pytest.mark.newest
def test_a_reader_takes_the_newer_one(
    mine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import train.runs.checkpoint

    def dropped_once(folder: Path, *rest: object) -> None:
        if folder.name == "12":
            folder.rename(folder.parent / "13.gone")
        check_files(folder, *rest)

    check_files = train.runs.checkpoint.check_files
    monkeypatch.setattr(train.runs.checkpoint, "check_files", dropped_once)
    assert load_run(mine).step == 8
    assert main(["checkpoint", "verify", str(mine)]) == 0
    (mine / "checkpoints" / "13.gone").rename(mine / "checkpoints" / "12")
    assert main(["generate", str(mine), "--prompt", "the", "--step", "12"]) == 2
    assert "was dropped for a newer one meanwhile" in capsys.readouterr().err


@pytest.mark.newest
def test_falling_back_without_checkpoints_starts_again(mine: Path) -> None:
    shutil.rmtree(mine / "checkpoints")
    assert main(["train", "--out", str(mine), "--resume", "--fall-back", "--set", "train.steps=5"]) == 0
    assert load_run(mine).step == load_run(mine).config.train.steps == 5  # the override is in its config


def test_a_finished_run_without_its_metrics_or_picture(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "loss.png").unlink()
    assert main(["train", "--out", str(mine), "--resume"]) == 0
    assert (mine / "loss.png").exists()
    (mine / "metrics.jsonl").unlink()
    assert main(["train", "--out", str(mine), "--resume"]) == 0
    assert "has all its 12 steps" in capsys.readouterr().out


BY_PARAMETERS = [  # commands that need only the parameters
    "generate {run} --prompt sea --max-new-tokens 1", "evaluate {run} --data {out}/sea.txt",
    "inspect {run} --prompt sea", "attention {run} --prompt sea --out {out}/map.png",
    "export {run} --out {out}/exported",
]  # fmt: skip


def words(command: str, run: Path, out: Path) -> list[str]:
    (out / "sea.txt").write_text("sea ")
    return command.format(run=run, out=out).split()


@pytest.mark.parametrize("command", BY_PARAMETERS)
@pytest.mark.parametrize("earlier_format", [False, True])
def test_commands_that_need_the_parameters_read_nothing_else(
    command: str, earlier_format: bool, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def spy(place: Path, like: object) -> object:
        tree = read_arrays(place, like)
        read.extend(name for name, _ in named(tree))
        return tree

    monkeypatch.setattr("train.runs.checkpoint.read_arrays", spy)
    assert main(words(command, OLD if earlier_format else run, tmp_path)) == 0
    assert [name for name in read if name.startswith("params/")]
    assert [name for name in read if name.startswith("opt_state")] == []


@pytest.fixture
def another_optimizer(mine: Path) -> Path:
    """A run of an optimizer whose state has other arrays."""
    optimizer = optax.sgd(0.1, momentum=0.9)
    params = load_run(mine).params
    there = TrainState(jnp.asarray(16, jnp.int32), params, optimizer.init(params))
    manifest = read_manifest(mine / "checkpoints" / "12")
    with Checkpoints(mine / "checkpoints") as checkpoints:
        checkpoints.save(there, manifest.config, manifest.tokenizer)
    return mine


@pytest.mark.parametrize("command", BY_PARAMETERS)
def test_a_run_of_another_optimizer_is_read(command: str, another_optimizer: Path, tmp_path: Path) -> None:
    assert main(words(command, another_optimizer, tmp_path)) == 0


@pytest.mark.parametrize("command", ["train --resume --set train.steps=20 --out", "compare", "checkpoint verify"])
def test_a_run_of_another_optimizer_cannot_be_resumed(
    command: str, another_optimizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), str(another_optimizer)]) == 2
    error = capsys.readouterr().err
    assert "opt_state/" in error and "optimizer" in error and "[model]" not in error and error.count("\n") == 1


def test_control_characters_in_a_manifest_are_escaped(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its checksum is right, because anybody who writes a manifest can compute it."""
    folder = mine / "checkpoints" / "12"
    manifest = read_manifest(folder)
    evil = {
        "versions": {"jaxllm": "\x1b[2J"},
        "arrays": {"\x1b[2J": next(iter(manifest.arrays.values()))},
        "config": {},
    }
    rewrite(folder, msgspec.structs.replace(manifest, **evil))
    assert main(["checkpoint", "list", str(mine)]) == 0
    for command in (["generate", str(mine), "--prompt", "a"], ["checkpoint", "verify", str(mine)]):
        assert main(command) == 2
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error and "\\x1b[2J" in out
