"""Runs that begin from a base: stopped and resumed, with the base moved or changed, from an adapter, in a sweep."""

import json
import re
import shutil
from pathlib import Path

import pytest
from imported_runs import CONFIG, imported
from runs import assert_same_run, lines
from tuned_runs import OPTIONS, ended_after, resume, sets, tune

from jaxllm import GPT
from jaxllm.compare import random_parameters
from train.cli import main
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
LORA = ("lora.rank=2", "lora.targets=query|up", "lora.dropout=0.1")
AVERAGED = ("optimizer.name=schedule_free_adamw", "optimizer.schedule=constant")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "full, packed": ("instruct", ("tune.packing=true", "train.window=64")),
    "adapters, averaged": ("instruct", (*LORA, *AVERAGED)),
    "classify": ("classify", ()),
    "prefer, beside int8": ("prefer", (*LORA, "lora.base=int8")),
}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters, beside its base."""
    folder = tmp_path_factory.mktemp("adapted")
    assert tune(imported(folder / "base"), "instruct", folder / "run", *LORA) == 0
    return folder / "run"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_ended_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """Where all parameters change, without the base."""
    (kind, options), base = RUNS[name], imported(tmp_path / "base")
    assert tune(base, kind, tmp_path / "whole", *options) == 0
    with ended_after(3):
        assert tune(base, kind, tmp_path / "run", *options) == 143
    assert lines(tmp_path / "run")[-1]["step"] == 3
    if not load_run(tmp_path / "run").config.lora.rank:
        shutil.rmtree(base)
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def copied(run: Path, folder: Path) -> Path:
    """A copy of the run that may be changed, with a base of its own."""
    shutil.copytree(run, folder / "run")
    shutil.copytree(run.parent / "base", folder / "base")
    config = folder / "run" / "config.toml"
    config.write_text(config.read_text().replace(str(run.parent / "base"), str(folder / "base")))
    return folder / "run"


def test_adapters_need_their_base(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where it has moved, its new place is written into the config, or named to go on."""
    run = copied(adapted, tmp_path)
    (tmp_path / "base").rename(tmp_path / "moved")
    for words in (["train", "--out", str(run), "--resume", *sets("train.steps=5")], ["evaluate", str(run)]):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert f"{tmp_path / 'base'} is not there, but this run keeps only what it trained" in error
        assert error.count("\n") == 1
    assert resume(run, "train.steps=5", f"init.from={tmp_path / 'moved'}") == 0
    assert load_run(run).step == 5


def test_a_base_with_other_weights(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(adapted, tmp_path)
    write_weights(RunFolder(tmp_path / "base").weights, random_parameters(GPT(CONFIG), seed=5))
    for words in (["train", "--out", str(run), "--resume", *sets("train.steps=5")], ["evaluate", str(run)]):
        assert main(words) == 2
        assert "base holds other weights (fingerprint" in capsys.readouterr().err
    assert load_run(adapted).step == 4


def test_what_a_run_leaves(adapted: Path) -> None:
    """Adapters and their optimizer state alone; the base's tokenizer and chat format."""
    names = {leaf["name"] for path in adapted.rglob("manifest.json") for leaf in json.loads(path.read_text())["arrays"]}
    maps = ("attention/query", "mlp/up")
    of_params = {name for name in names if "params" in name.partition("/")[0]}
    assert of_params == {f"params/block_0/{name}/kernel/{leaf}" for name in maps for leaf in "ab"}
    assert not [name for name in names if "frozen" in name or "token_embedding" in name]
    base = load_run(adapted.parent / "base")
    run = load_run(adapted)
    assert run.chat == base.chat and run.tokenizer.fingerprint() == base.tokenizer.fingerprint()


def test_evaluate_finds_the_last_record(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(adapted)]) == 0
    printed = re.search(r"validation loss +([\d.]+) nats", capsys.readouterr().out)
    assert printed and float(printed[1]) == pytest.approx(lines(adapted)[-1]["val_loss"], abs=1e-4)


def test_the_config_file_may_be_named_again(adapted: Path, tmp_path: Path) -> None:
    """What the base and the data decided is left out of it."""
    run, config = copied(adapted, tmp_path), tmp_path / "tune.toml"
    data, base = adapted.parent / "instruct.jsonl", tmp_path / "base"
    config.write_text(f'[data]\nsource = "{data}"\n[init]\nfrom = "{base}"\n[tune]\nkind = "instruct"\n')
    words = sets(*OPTIONS, *LORA, "optimizer.min_learning_rate=1e-3", "optimizer.warmup_steps=0", "checkpoint.every=4")
    assert main(["train", str(config), "--out", str(run), "--resume", *words, *sets("train.steps=5")]) == 0
    assert load_run(run).step == 5
