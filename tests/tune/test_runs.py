"""Runs that begin from a base: stopped and resumed, with the base moved or changed, from an adapter, in a sweep."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from imported_runs import CONFIG, TOKENIZER, imported
from runs import assert_same_run, lines
from tuned_runs import OPTIONS, ended_after, examples_file, resume, sets, tune

from jaxllm import GPT
from jaxllm.compare import random_parameters
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.tokenizers import CharTokenizer
from train.cli import main
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run
from train.tune.rendered import ending_answers

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
MODEL = replace(CONFIG, activation="swiglu", use_bias=False)
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
    assert tune(imported(folder / "base", MODEL), "instruct", folder / "run", *LORA) == 0
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


def test_a_run_that_is_ended_before_anything_is_saved_begins_again(tmp_path: Path) -> None:
    """From its base, not from random parameters."""
    base = imported(tmp_path / "base")
    assert tune(base, "instruct", tmp_path / "whole") == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (tmp_path / "run" / "samples.txt").unlink(missing_ok=True)
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


def test_a_run_that_is_its_own_base(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As where a run was moved to the place of its base."""
    run = copied(adapted, tmp_path)
    shutil.rmtree(tmp_path / "base")
    run.rename(tmp_path / "base")
    assert main(["evaluate", str(tmp_path / "base")]) == 2
    assert "is that run itself; write there where its base is" in capsys.readouterr().err


def test_runs_of_a_sweep_are_tried_before_the_first_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rank that no map has, in the last of them, leaves no folder."""
    base = imported(tmp_path / "base", MODEL)
    text = tmp_path / "config.toml"
    data = examples_file(tmp_path, "instruct")
    text.write_text(f'[data]\nsource = "{data}"\n[init]\nfrom = "{base}"\n[tune]\nkind = "instruct"\n')
    options = sets(*OPTIONS, "optimizer.warmup_steps=0", "lora.rank=1,100")
    assert main(["sweep", str(text), "--out", str(tmp_path / "sweep"), *options]) == 2
    assert "lora.rank is 100, but block_0/attention/key is" in capsys.readouterr().err
    assert not [*(tmp_path / "sweep").glob("*/config.toml")]


def test_a_base_with_other_weights(adapted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(adapted, tmp_path)
    write_weights(RunFolder(tmp_path / "base").weights, random_parameters(GPT(MODEL), seed=5))
    for words in (["train", "--out", str(run), "--resume", *sets("train.steps=5")], ["evaluate", str(run)]):
        assert main(words) == 2
        assert "base holds other weights (fingerprint" in capsys.readouterr().err
    assert load_run(adapted).step == 4


def test_what_a_run_leaves(adapted: Path) -> None:
    """Adapters and their optimizer state alone; the base's tokenizer and chat format."""
    (manifest,) = adapted.rglob("manifest.json")
    arrays = set(json.loads(manifest.read_text())["arrays"])
    maps = [f"block_0/{name}/kernel/{leaf}" for name in ("attention/query", "mlp/up") for leaf in "ab"]
    states = [f"opt_state/1/0/{moment}/{name}" for moment in ("mu", "nu") for name in maps]
    assert arrays == {"step", "opt_state/1/0/count", "opt_state/1/2/count", *states, *(f"params/{n}" for n in maps)}
    base = load_run(adapted.parent / "base")
    run = load_run(adapted)
    assert run.chat == base.chat and run.tokenizer.fingerprint() == base.tokenizer.fingerprint()


def test_evaluate_finds_the_last_record(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(adapted)]) == 0
    printed = re.search(r"validation loss +([\d.]+) nats", capsys.readouterr().out)
    assert printed and float(printed[1]) == pytest.approx(lines(adapted)[-1]["val_loss"], abs=1e-4)


def test_options_of_runs_on_a_text(adapted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in (("--data", "text.txt"), ("--weights", "int8"), ("--context", "context.png")):
        assert main(["evaluate", str(adapted), option, value]) == 2
        assert f"{option} is for runs on a text, but this one learned from examples" in capsys.readouterr().err


def test_preferences_begin_at_the_base(tmp_path: Path) -> None:
    """At the first step the model is its own reference: no margin, and the loss ln 2."""
    assert tune(imported(tmp_path / "base"), "prefer", tmp_path / "run", "train.steps=1", *LORA[:2]) == 0
    first = lines(tmp_path / "run")[0]
    assert first["train_loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert first["train_margin"] == pytest.approx(0, abs=1e-6)


def test_the_config_file_may_be_named_again(adapted: Path, tmp_path: Path) -> None:
    """What the base and the data decided is left out of it."""
    run, config = copied(adapted, tmp_path), tmp_path / "tune.toml"
    data, base = adapted.parent / "instruct.jsonl", tmp_path / "base"
    config.write_text(f'[data]\nsource = "{data}"\n[init]\nfrom = "{base}"\n[tune]\nkind = "instruct"\n')
    words = sets(*OPTIONS, *LORA, "optimizer.min_learning_rate=1e-3", "optimizer.warmup_steps=0", "checkpoint.every=4")
    assert main(["train", str(config), "--out", str(run), "--resume", *words, *sets("train.steps=5")]) == 0
    assert load_run(run).step == 5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_goes_on_from_an_exported_adapter(adapted: Path, tmp_path: Path) -> None:
    """Its rank and maps are the adapter's. Once a checkpoint is there, the adapter's folder is needed no more."""
    base, peft = adapted.parent / "base", tmp_path / "peft"
    assert main(["export", str(adapted), "--out", str(peft), "--adapter"]) == 0
    with ended_after(1):
        assert tune(base, "instruct", tmp_path / "run", f"init.adapter={peft}", "optimizer.learning_rate=1e-12") == 143
    ours, theirs = load_run(adapted), load_run(tmp_path / "run")
    assert (theirs.config.lora.rank, theirs.config.lora.alpha) == (2, 16.0)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), ours.params, theirs.params)
    shutil.rmtree(peft)
    assert resume(tmp_path / "run") == 0


def test_a_sweep_over_ranks_and_seeds(adapted: Path, tmp_path: Path) -> None:
    """Each run is what it is alone, its config too, though the data are read once."""
    base, config = adapted.parent / "base", tmp_path / "tune.toml"
    data = examples_file(base.parent, "instruct")
    config.write_text(f'[data]\nsource = "{data}"\n[init]\nfrom = "{base}"\n[tune]\nkind = "instruct"\n')
    words = ["sweep", str(config), "--out", str(tmp_path / "sweep"), *sets(*OPTIONS, "optimizer.warmup_steps=0")]
    swept = sets("lora.rank=1,2", "train.seed=0,7", "lora.targets=query", "optimizer.min_learning_rate=0")
    assert main([*words, *swept]) == 0
    alone = sets(*OPTIONS, "lora.rank=2", "train.seed=7", "lora.targets=query", "optimizer.min_learning_rate=0")
    alone += sets("optimizer.warmup_steps=0")
    assert main(["train", str(config), "--out", str(tmp_path / "alone"), *alone]) == 0
    assert_same_run(tmp_path / "sweep" / "rank=2,seed=7", tmp_path / "alone")
    assert load_run(tmp_path / "sweep" / "rank=2,seed=7").config == load_run(tmp_path / "alone").config
    finals = [lines(path)[-1]["val_loss"] for path in sorted((tmp_path / "sweep").glob("rank=*"))]
    assert len(finals) == len(set(finals)) == 4
    assert main([*words, *swept]) == 0  # complete


def test_the_labels_of_a_run_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, labels = imported(tmp_path / "base"), 'tune.labels=["two", "one", "three", "none"]'
    assert tune(base, "classify", tmp_path / "run", labels, "train.steps=1", "tune.train=norm") == 0
    assert resume(tmp_path / "run", "train.steps=2") == 0
    run = load_run(tmp_path / "run")
    assert run.config.tune.labels == ("two", "one", "three", "none") and run.model.config.n_classes == 4
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert "'two'  'one'  'three'  'none'" in capsys.readouterr().out


def test_what_diverges_leaves_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Infinite weights of the base, and a rate at which adapters overflow."""
    base = imported(tmp_path / "base")
    rate = ("optimizer.learning_rate=1e38", "optimizer.clip_norm=1e38", "optimizer.name=sgd")
    assert tune(base, "instruct", tmp_path / "fast", *LORA, *rate) == 1
    params = random_parameters(GPT(CONFIG))
    write_weights(RunFolder(base).weights, jax.tree.map(lambda x: x.at[0].set(np.inf), params))
    assert tune(base, "instruct", tmp_path / "infinite", *LORA) == 1
    assert tune(base, "prefer", tmp_path / "pairs", *LORA) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 3 and said.count("not finite") + said.count(" is inf") + said.count(" is nan") >= 3
    for name in ("fast", "infinite", "pairs"):
        assert main(["evaluate", str(tmp_path / name)]) == 2
        assert "holds no checkpoint" in capsys.readouterr().err


def test_a_model_trained_here_learns_to_stop(tmp_path: Path) -> None:
    """It has no chat format: the tokenizer's end token, which training teaches, ends its answers from then on."""
    config = tmp_path / "tiny.toml"
    (tmp_path / "text.txt").write_text("ab cd ef. " * 40)
    TOKENIZER.save(tmp_path / "tokenizer.json")
    config.write_text(
        f'[data]\nsource = "{tmp_path}/text.txt"\n[tokenizer]\nkind = "file"\npath = "{tmp_path}/tokenizer.json"\n'
        "[model]\ncontext_length = 16\nd_model = 8\nn_layers = 1\nn_heads = 1\n[optimizer]\nwarmup_steps = 0\n"
    )
    words = sets("train.steps=1", "train.batch_size=2", "eval.sample_tokens=1")
    assert main(["train", str(config), "--out", str(tmp_path / "base"), *words]) == 0
    assert load_run(tmp_path / "base").chat is None
    assert tune(tmp_path / "base", "instruct", tmp_path / "run", "train.steps=1") == 0
    run = load_run(tmp_path / "run")
    assert run.chat == ChatFormat(end_tokens=(257,))
    words = ["tune", str(tmp_path / "base"), str(tmp_path / "text.txt"), "--kind", "pretrain", "--epochs", "1"]
    assert main([*words, "--out", str(tmp_path / "text"), *sets("train.batch_size=8", "train.products=xla")]) == 0
    run = load_run(tmp_path / "text")
    assert run.chat is None and run.config.train.window == 16  # no more than the context
    assert run.config.train.steps == 3  # 360 tokens are 22 rows


def test_tokens_that_end_answers() -> None:
    def ends(chat: ChatFormat | None) -> tuple[int, ...]:
        return ending_answers(chat, TOKENIZER).end_tokens

    assert ends(None) == (257,)
    assert ends(ChatFormat(256, (), None, "<s>", "{{ eos_token }}")) == (256,)
    assert ends(ChatFormat(256, (257,), None, "<s>", "{{ eos_token }}")) == (257, 256)
    assert ending_answers(None, CharTokenizer.train(["ab"])) == ChatFormat()
