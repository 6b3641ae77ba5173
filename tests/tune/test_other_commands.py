"""Commands that are not of tuning, on runs and configs that tune: what they show, and what they refuse."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from imported_runs import CONFIG, imported

from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.parameter_map import nested
from train.cli import main
from train.commands.compare import choose_subject
from train.config import RunConfig, row_length, tokens_of_step
from train.config_file import load_config
from train.inputs import model_without_text, prepare
from train.loop import batch_of
from train.memory_estimate import state_bytes
from train.optimizer import make_optimizer
from train.parallel.layout import MeshLayout
from train.parallel.placing import shapes_of_batch
from train.plan.compiled import PlannedStep, abstract, blocks_are_alike
from train.runs.summary import find_runs, read_runs
from train.state import state_of
from train.tune.config import InitConfig, LoraConfig, TuneConfig
from train.tune.kinds import shapes_of_kind
from train.tune.partition import partition_of

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
LINES: dict[str, list[dict[str, str]]] = {
    "instruct": [{"prompt": "a" * (1 + i % 3), "answer": "bc"[i % 2]} for i in range(20)],
    "classify": [{"text": "ab"[i % 2] * (1 + i % 3), "label": ("x", "y")[i % 2]} for i in range(20)],
    "prefer": [{"prompt": "a" * (1 + i % 3), "chosen": "b", "rejected": "cd"} for i in range(20)],
}
SETS = ("lora.rank=2", "train.steps=2", "train.batch_size=4", "optimizer.warmup_steps=1", "eval.sample_tokens=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and for each kind examples and a config."""
    folder = tmp_path_factory.mktemp("tuned")
    base = imported(folder / "base", replace(CONFIG, activation="swiglu", use_bias=False))
    for kind, lines in LINES.items():
        data = folder / f"{kind}.jsonl"
        data.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        (folder / f"{kind}.toml").write_text(
            f"init.from = '{base}'\ndata.source = '{data}'\ntune.kind = '{kind}'\nlora.rank = 2\ntrain.batch_size = 4\n"
        )
    (folder / "plain.toml").write_text("model.vocab_size = 9\n")
    return folder


RunOf = Callable[[str], str]


@pytest.fixture(scope="module")
def run_of(folder: Path) -> RunOf:
    """The path of a run of a kind, with adapters, which is tuned when it is asked for first."""

    @cache
    def tuned(kind: str) -> str:
        sets = [word for one in SETS for word in ("--set", one)]
        words = ["tune", str(folder / "base"), str(folder / f"{kind}.jsonl"), "--out", str(folder / kind)]
        assert main([*words, "--kind", kind, *sets]) == 0
        return str(folder / kind)

    return tuned


def printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("kind", "shape"), [("instruct", [1, 16]), ("classify", [1, 16]), ("prefer", [1, 32])])
def test_a_run_with_adapters_is_compared(
    kind: str, shape: list[int], run_of: RunOf, capsys: pytest.CaptureFixture[str]
) -> None:
    """Merged, on a row of its data, and without the optimizer, whose state is that of the adapters."""
    text = printed(["compare", run_of(kind), "--length", str(shape[1])], capsys)
    assert "comparisons within tolerance" in text and "optimizer step:" not in text
    assert "the optimizer step is left out: its state is that of adapters alone" in text
    found = json.loads(printed(["compare", run_of(kind), "--length", str(shape[1]), "--json"], capsys))
    assert found["passed"] and found["shape"] == shape and "optimizer step is left out" in found["left_out"]


def test_rows_of_examples_are_compared(run_of: RunOf, capsys: pytest.CaptureFixture[str]) -> None:
    """The next token of an answer's positions, of both answers of a pair; of a classifier the label, at each."""
    pairs = choose_subject(run_of("prefer"), None, [], 3, 8)
    assert pairs.inputs.shape == (3, 8) and (pairs.inputs[0] == pairs.inputs[1]).any()
    np.testing.assert_array_equal(pairs.targets[:, :-1], pairs.inputs[:, 1:])
    texts = choose_subject(run_of("classify"), None, [], 2, 8)
    np.testing.assert_array_equal(texts.targets, np.repeat([[0], [1]], 8, axis=1))
    assert main(["compare", run_of("classify"), "--batch-size", "9"]) == 2
    assert "the validation split has 2 rows of examples" in capsys.readouterr().err


def test_a_classifier_with_random_weights_is_compared(folder: Path) -> None:
    subject = choose_subject(str(folder / "classify.toml"), None, [], 2, 8)
    assert subject.model.n_classes == 2 and subject.targets.max() == 1 and not subject.without_optimizer


def test_a_tuning_is_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The frozen parameters of the base, cut in two, beside adapters; a pair is two rows."""
    path = str(folder / "prefer.toml")
    out = folder / "plan.json"
    text = printed(["plan", path, "--set", "parallel.fsdp=2", "--json", str(out)], capsys)
    assert "parameters that change" in text and "frozen parameters" in text and "stand-in" not in text
    found = json.loads(out.read_text())
    base = 4 * (8 * 260 + 4 * 64 + 3 * 256) // 2 + 4 * 3 * 8  # fsdp leaves norms whole
    assert found["frozen"] == base and found["flops_needed"] is None
    assert found["tokens_per_step"] == 2 * 4 * 64


@pytest.mark.parametrize("settings", ["instruct", "instruct packing", "classify", "prefer"])
def test_a_planned_batch_has_the_shapes_of_one(settings: str, folder: Path) -> None:
    kind, _, packing = settings.partition(" ")
    config = load_config(folder / f"{kind}.toml", ["tune.packing=true"] if packing else [])
    run = prepare(config)
    shapes = shapes_of_kind(config, row_length(run.model, run.config.train))
    drawn = shapes_of_batch(None, *batch_of(run, 0))
    assert jax.tree.structure(shapes) == jax.tree.structure(drawn)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(shapes)] == [(x.shape, x.dtype) for x in jax.tree.leaves(drawn)]


def test_blocks_with_other_adapters_are_all_compiled(folder: Path) -> None:
    config = load_config(folder / "instruct.toml")
    model = replace(model_without_text(config), n_layers=5)
    assert blocks_are_alike(config, model)
    assert blocks_are_alike(replace(config, lora=replace(config.lora, targets="query|up")), model)
    assert not blocks_are_alike(replace(config, lora=replace(config.lora, targets="block_4")), model)
    whole = replace(config, lora=LoraConfig(), tune=replace(config.tune, train="block_1"))
    assert not blocks_are_alike(whole, model)
    subject = PlannedStep(config, model, MeshLayout(), jax.devices())
    assert set(abstract(config, model, subject.mesh).params) == {f"block_{i}" for i in range(5)}


@pytest.mark.parametrize("lora", [LoraConfig(2), LoraConfig(2, base="int8", targets="mlp"), LoraConfig()])
def test_the_state_is_counted_exactly(lora: LoraConfig) -> None:
    config = RunConfig(init=InitConfig("base"), lora=lora, tune=TuneConfig(train="norm"))
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in parameter_shapes(CONFIG).items()}
    rule, key = make_optimizer(config.optimizer, 1), jax.eval_shape(jax.random.key, 0)

    def begin(params: Any, key: Any) -> Any:
        return state_of(params, rule, key, partition_of(config))

    state = jax.eval_shape(begin, nested(shapes), key)
    held, changing = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) for tree in (state, state.params)
    )
    assert state_bytes(CONFIG, config.train, config.optimizer, parts=partition_of(config)) == held + changing


def test_the_tokens_of_a_step_are_those_of_both_answers(run_of: RunOf, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = read_runs(find_runs([run_of("prefer")]))
    assert run.last and run.last["tokens"] == run.tokens(2) == 2 * tokens_of_step(run.config, run.config.model)
    assert run.tokens(1) == 2 * 4 * run.config.train.window and run.flops(2) is None
    text = printed(["describe", run_of("prefer")], capsys)
    assert f"tokens: {run.tokens(1):,} a step" in text and "of them change" in text


def test_what_reads_a_run_reads_one_with_adapters(run_of: RunOf, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of("instruct")
    assert "every byte is as it was written" in printed(["checkpoint", "verify", run], capsys)
    assert "the model expects" in printed(["inspect", run, "--prompt", "ab"], capsys)
    assert "rank  layer" in printed(["attention", run, "--prompt", "abab", "--from", "a", "--to", "b"], capsys)
    assert "rank  layer" in printed(
        ["attention", run_of("classify"), "--prompt", "abab", "--from", "a", "--to", "b"], capsys
    )
    assert "lora.rank" not in printed(["runs", run], capsys)


@pytest.mark.parametrize(("words", "message"), [
    ("generate classify --prompt a", "classify is a classifier, which writes no text; use `jaxllm classify classify --text TEXT`"),
    ("generate classify --prompt a --chat", "classify is a classifier, which writes no text; use `jaxllm classify classify --text TEXT`"),
    ("chat classify", "classify is a classifier, which writes no text; use `jaxllm classify classify --text TEXT`"),
    ("inspect classify --prompt a", "predicts no tokens; give a text to `jaxllm classify`"),
    ("export classify --out out", "has no model.n_classes = 2"),
    ("bench train instruct.toml", "init.from is 'FOLDER/base', but a bench is of random weights and tokens"),
    ("bench generate instruct.toml", "init.from is 'FOLDER/base', but a bench is of random weights and tokens"),
    ("bench plan instruct.toml", "init.from is 'FOLDER/base', but a bench is of random weights and tokens"),
    ("coordinates instruct.toml", "init.from is 'FOLDER/base', but the check begins with random weights"),
    ("bench train plain.toml --set lora.rank=2", "lora.rank is 2, but a bench is"),
    ("bench train plain.toml --set tune.kind=prefer", "tune.kind is 'prefer', but a bench is"),
    ("bench train plain.toml --set tune.train=norm", "tune.train is 'norm', but a bench is"),
    ("bench train plain.toml --set train.window=4", "train.window is 4, but the rows of a bench are as long as"),
    ("plan instruct.toml --set parallel.context=2", 'but the rows of tune.kind = "instruct" are not cut'),
])  # fmt: skip
def test_what_is_refused_gets_one_sentence(
    words: str, message: str, folder: Path, run_of: RunOf, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    if "classify" in words:
        run_of("classify")
    monkeypatch.chdir(folder)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message.replace("FOLDER", str(folder)) in error and error.count("\n") == 1
    assert not (folder / "out").exists()
