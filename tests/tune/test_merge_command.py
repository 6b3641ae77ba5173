"""`jaxllm merge`: a run whose weights hold its adapters, or none."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import CONFIG, imported

from jaxllm.lora import LoraKernel
from train.cli import main
from train.commands import merge as command
from train.inputs import prepare
from train.runs.folder import RunFolder
from train.runs.imported_weights import write_weights
from train.runs.load import load_run
from train.tune.batches import Answers, Preferences
from train.tune.merge_rows import first_rows, split_rows, validation_rows

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
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


def test_what_a_coarse_dtype_loses_is_not_written(
    tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged"), "--dtype", "bfloat16"]) == 1
    assert "bfloat16 is too coarse for this adapter" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_the_proof_reads_what_was_written(
    tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that lacks the adapters is found, whatever the merge in memory was."""
    base = load_run(tuned.parent / "base").params
    monkeypatch.setattr(command, "write_weights", lambda path, params, source: write_weights(path, base, source))
    assert main(["merge", str(tuned), "--out", str(tmp_path / "merged")]) == 1
    assert "100% of what it changes would be lost" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]


def test_a_run_without_adapters(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tuned.parent / "base"), "--out", str(tmp_path / "merged")]) == 2
    assert "has no adapters" in capsys.readouterr().err
    assert main(["merge", str(tuned), "--out", str(tuned)]) == 2
    assert "is there already" in capsys.readouterr().err


def test_adapters_are_left_beside_their_maps(tuned: Path) -> None:
    leaves = flatten_dict(load_run(tuned, adapters=True).params).values()
    assert sum(isinstance(leaf, LoraKernel) for leaf in leaves) == 7


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


def test_the_labels_of_a_classifier_come_along(tuned: Path) -> None:
    run = load_run(tuned)
    config = replace(run.config, tune=replace(run.config.tune, kind="classify", labels=("a", "b")))
    merged = command.merged_config(replace(run, config=config))
    assert (merged.tune.kind, merged.tune.labels) == ("classify", ("a", "b"))
    assert command.merged_config(run).tune.kind == "pretrain"
    assert RunFolder(tuned).read_config().init.from_ and merged.init.from_ is None
