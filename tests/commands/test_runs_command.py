"""`jaxllm runs`: run folders that no training has made, side by side."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.axes
import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from jaxllm.flops import flops_per_token
from train.cli import main
from train.commands.runs import show
from train.config_file import build_config
from train.runs.compared import differing, group_runs
from train.runs.curves_plot import COSTS, curve
from train.runs.folder import RunFolder
from train.runs.manifest import StoredArray, new_manifest, rewrite
from train.runs.metrics import MetricsFile
from train.runs.summary import find_runs, read_runs
from train.sweep import combinations, keep_or_check, parse_axes

OLD = Path(__file__).parents[1] / "golden" / "run-v1"
TINY: dict[str, dict[str, Any]] = {
    "model": dict(vocab_size=65, context_length=16, d_model=16, n_layers=1, n_heads=2),
    "train": dict(steps=20, batch_size=4),
    "optimizer": dict(warmup_steps=2),
    "data": dict(sha256="a" * 64, source="text.txt"),
}


def make_run(path: Path, losses: Mapping[int, float], until: int = 20, **changes: Any) -> Path:
    """A run of 20 steps with these validation losses, recorded until a step; `changes` as train__seed=1."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.write_config(build_config(TINY, [f"{name.replace('__', '.')}={value}" for name, value in changes.items()]))
    metrics = MetricsFile(folder.metrics, 0)
    for step in range(1, until + 1):
        record = dict(step=step, tokens=step * 64, elapsed_s=step / 2, train_loss=4.0, tokens_per_s=128.0)
        metrics.write(record | ({"val_loss": losses[step]} if step in losses else {}))
    metrics.close()
    return path


def make_group(folder: Path, name: str, final: list[float], **changes: Any) -> list[Path]:
    """Runs with these losses at the last step, with the seeds 0, 1, ..."""
    return [
        make_run(folder / f"{name}-{seed}", {10: loss + 1, 20: loss}, **changes | {"train__seed": seed})
        for seed, loss in enumerate(final)
    ]


A, B = [4.0, 4.1, 4.2], [3.9, 4.01, 4.1]


def run(*words: object) -> int:
    return main(["runs", *map(str, words)])


def test_tables_verdict_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The fields that differ and no others; the figures; the first group is the baseline."""
    sweep = tmp_path / "sweep"
    make_group(sweep, "a", A)
    make_group(sweep, "b", B, optimizer__learning_rate=0.003)
    (sweep / "notes").mkdir()
    picture, figures = tmp_path / "curves.png", tmp_path / "figures.json"
    assert run(sweep, "--out", picture, "--json", figures) == 0
    said = capsys.readouterr()
    assert said.err == ""
    head, *rows = said.out.split("\n\n")[0].splitlines()
    assert (
        head.split() == "run group train.seed optimizer.learning_rate steps tokens val_loss best seconds FLOPs".split()
    )
    flops = 20 * 64 * flops_per_token(read_runs([sweep / "a-0"])[0].config.model)
    assert rows[0].split() == [f"{sweep}/a-0", *"1 0 0.001 20 1,280 4.0000 4.0000 10.0".split(), f"{flops:.2e}"]
    assert [row.split()[1:4] for row in rows[2:4]] == [["1", "2", "0.001"], ["2", "0", "0.003"]]
    assert "1  optimizer.learning_rate=0.001      3  4.1000  0.1000\n" in said.out
    assert "\n2  -0.0967, 95 % interval -0.1110 to -0.0823, p = 0.0012: better by 3 seeds in pairs\n" in said.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    written = json.loads(figures.read_text())
    assert written["groups"][1] == {
        "config": {"optimizer.learning_rate": 0.003}, "loss": "val_loss", "losses": dict(zip("012", B, strict=True))
    }  # fmt: skip
    assert written["runs"][0]["flops"] == flops and written["runs"][0]["finished"]
    assert written["verdicts"][0]["p"] == pytest.approx(stats.ttest_rel(B, A).pvalue)


def test_what_does_not_count_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run in progress, one that was never evaluated, a second one of a seed, an imported model, a folder twice."""
    first, *_ = make_group(tmp_path, "a", A)
    make_group(tmp_path, "b", B, optimizer__learning_rate=0.003)
    make_run(tmp_path / "going", {10: 1.0}, until=15, train__seed=3)
    make_run(tmp_path / "new", {}, until=0, train__seed=4)
    make_run(tmp_path / "blind", {}, train__seed=5)
    shutil.copytree(first, tmp_path / "copy")
    make_run(tmp_path / "imported", {}, until=0, model__d_model=32)
    (tmp_path / "imported" / "weights.safetensors").touch()
    with (tmp_path / "going" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 16, "tok')  # being written
    os.symlink(first, tmp_path / "a-link")
    assert run(tmp_path, first, tmp_path / "copy" / ".." / "b-0", "--out", tmp_path / "curves.svg") == 0
    said = capsys.readouterr()
    assert sorted(said.err.splitlines()) == [
        f"note: {tmp_path}/blind has no validation loss at its last step: it takes no part in means and verdicts",
        f"note: {tmp_path}/copy repeats {first} with the same seed, which alone counts",
        f"note: {tmp_path}/going has 15 of 20 steps: it takes no part in means and verdicts",
        f"note: {tmp_path}/imported was imported and has no steps to compare: left out",
        f"note: {tmp_path}/new has 0 of 20 steps: it takes no part in means and verdicts",
    ]
    assert "15 of 20" in said.out and said.out.count("/a-0 ") == said.out.count("/b-0 ") == 1
    assert "1  optimizer.learning_rate=0.001      3  4.1000  0.1000\n" in said.out and ": better by 3 seeds" in said.out


def test_the_loss_of_averaged_weights_counts_where_they_generate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In means, verdict, best and newest loss, and curves, under its name."""
    make_group(tmp_path, "a", A)
    for path, loss in zip(make_group(tmp_path, "b", A, eval__weights="schedule_free",
                                     optimizer__name="schedule_free_adamw"), B, strict=True):  # fmt: skip
        text = (path / "metrics.jsonl").read_text()
        (path / "metrics.jsonl").write_text(text.replace('"val_loss":', f'"averaged_val_loss": {loss}, "val_loss":'))
    assert run(tmp_path, "--json", tmp_path / "figures.json") == 0
    out = capsys.readouterr().out
    assert "  eval.weights=schedule_free  (averaged_val_loss)      3  4.0033" in out and "\n2  -0.0967, " in out
    assert out.count("averaged_val_loss") == 1
    written = json.loads((tmp_path / "figures.json").read_text())
    assert written["groups"][1]["loss"] == written["runs"][3]["loss"] == "averaged_val_loss"
    assert (written["runs"][3]["val_loss"], written["runs"][3]["best_val_loss"]) == (B[0], B[0])
    assert curve(read_runs([tmp_path / "b-0"]), COSTS["tokens"])[1].tolist() == [[B[0], B[0]]]


def damaged(folder: Path) -> str:
    run = make_run(folder / "one", {20: 4.0})
    (run / "metrics.jsonl").write_text('{"step": 1}\n')
    return f"the run {run} cannot be read: line 1 of {run}/metrics.jsonl is damaged"


def metrics_in_a_folder(folder: Path) -> str:
    run = make_run(folder / "one", {})
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    return f"cannot read {run}/metrics.jsonl"


def unknown_field(folder: Path) -> str:
    run = make_run(folder / "one", {20: 4.0})
    (run / "config.toml").write_text("[train]\nstep = 3\n")
    return f"the run {run} cannot be read: train.step is no config field"


def imported(folder: Path) -> str:
    (make_run(folder / "one", {}) / "weights.safetensors").touch()
    return f"{folder}/one was imported and has no steps to compare"


def absent(folder: Path) -> str:
    folder.rmdir()
    return f"cannot read the folder {folder}: No such file"


def a_file(folder: Path) -> str:
    absent(folder)
    folder.touch()
    return f"cannot read the folder {folder}: Not a directory"


def empty(folder: Path) -> str:
    return f"{folder} holds no run"


@pytest.mark.parametrize("make", [damaged, metrics_in_a_folder, unknown_field, imported, absent, a_file, empty])
def test_wrong_folders(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    want = make(folder)
    make_run(tmp_path / "other", {20: 4.0})
    assert run(tmp_path / "other", folder) == 2 if make is not imported else run(folder) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"jaxllm runs: {want}") and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize("words", ["--out {run}/a.png", "--out a.txt", "--json {run}/config.toml"])
def test_wrong_places_for_files(words: str, tmp_path: Path) -> None:
    one = make_run(tmp_path / "one", {20: 4.0})
    assert run(one, *words.format(run=one).split()) == 2
    assert sorted(os.listdir(one)) == ["config.toml", "metrics.jsonl"]


def test_a_run_of_an_earlier_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it has nothing to differ from, so there is no verdict."""
    show([OLD], tmp_path / "curves.png")
    said = capsys.readouterr()
    assert said.err == "" and (tmp_path / "curves.png").exists() and "verdict" not in said.out
    assert said.out.split("\n\n")[0].split()[:8] == "run group steps tokens val_loss best seconds FLOPs".split()


def test_nothing_to_draw(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    show([make_run(tmp_path / "one", {}, until=0)], tmp_path / "curves.png")
    said = capsys.readouterr()
    assert "curves.png was not drawn: no run has a validation loss yet" in said.err and " -  " in said.out
    assert not (tmp_path / "curves.png").exists()


def test_sentences_without_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One seed each; a group of one seed beside others; losses of another text."""
    make_group(tmp_path / "one", "a", A[:1])
    make_group(tmp_path / "one", "b", B[:1], model__d_model=32)
    show([tmp_path / "one"], None)
    assert capsys.readouterr().out.endswith("\n\nno verdict: one seed does not show the spread of the losses; "
                                            "train each group with several train.seed\n")  # fmt: skip
    make_group(tmp_path, "a", A, model__d_ff=8)
    make_group(tmp_path, "few", A[:1])
    make_group(tmp_path, "other", B, data__sha256="b" * 64, model__d_ff=8)
    show([tmp_path], None)
    *_, few, other = capsys.readouterr().out.splitlines()
    assert few == "2  no verdict: 1 finished seeds, and 3 of group 1; a test needs two each"
    assert other == "3  no verdict: data or tokenizer differ, so the losses are of other tokens"


def test_what_would_be_needed_and_how_many_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_group(tmp_path, "a", A)
    make_group(tmp_path, "b", [4.0, 4.15, 4.23], model__d_ff=8)
    make_group(tmp_path, "c", [5.0, 5.1, 5.21], model__d_ff=16)
    show([tmp_path], None)
    head, first, second, last = capsys.readouterr().out.splitlines()[-4:]
    assert head.endswith("; p by Holm's adjustment for 2 comparisons")
    assert first.startswith("2  +0.0267, ") and first.endswith(
        ": not told apart by 3 seeds in pairs; about 12 would be needed"
    )
    p = 2 * stats.ttest_rel([5.0, 5.1, 5.21], A).pvalue
    assert second.startswith("3  +1.0033, ") and second.endswith(f", p = {p:.2g}: worse by 3 seeds in pairs")
    assert last.startswith("needed: the fewest seeds for 80 % power")


def test_the_same_text_elsewhere_is_no_difference(tmp_path: Path) -> None:
    make_group(tmp_path, "a", A, data__source="/here/text.txt")
    make_run(tmp_path / "b", {20: 4.0}, data__source="/there/text.txt", train__seed=9)
    assert [[*group.losses] for group in group_runs(read_runs(find_runs([tmp_path])))] == [[0, 1, 2, 9]]


def test_what_does_not_change_the_loss_parts_no_group(tmp_path: Path) -> None:
    """It stands in the table of the runs alone. How often a run is saved, shown and sampled is such a thing."""
    make_group(tmp_path, "a", A)
    changes = {
        "checkpoint.keep": 5,
        "train.products": "xla",
        "eval.every": 7,
        "eval.prompt": "a",
        "train.sink": "wandb",
    }
    more = {name.replace(".", "__"): value for name, value in changes.items()}
    make_run(tmp_path / "b", {20: 4.0}, **more, train__seed=9)
    runs = read_runs(find_runs([tmp_path]))
    assert [[*group.losses] for group in group_runs(runs)] == [[0, 1, 2, 9]]
    assert {*differing(runs)} == {*changes, "train.seed"}


@pytest.mark.parametrize(("arrays", "like"), [(["up"], "relu"), (["gate", "up"], "swiglu")])
def test_the_operations_of_an_idea(arrays: list[str], like: str, tmp_path: Path) -> None:
    """Its code is not run: the saved parameters show whether an activation has a gate. Its sum is no difference."""
    one = make_run(tmp_path / "one", {20: 4.0}, model__activation="ideas.py:f", train__code_sha256="c" * 64)
    other = make_run(tmp_path / "other", {20: 4.0}, model__activation=like)
    assert read_runs([one])[0].flops(20) is None
    saved = one / "checkpoints" / "20"
    saved.mkdir(parents=True)
    stored = StoredArray((16, 64), "float32", "0" * 64)
    manifest = new_manifest(20, 4.0, {}, "tokenizer")
    rewrite(saved, replace(manifest, arrays={f"params/block_0/mlp/{name}/kernel": stored for name in arrays}))
    runs = read_runs([one, other])
    assert runs[0].flops(20) == runs[1].flops(20) and differing(runs) == ["model.activation"]
    show([make_run(tmp_path / "block", {20: 4.0}, model__block="ideas.py:Block")], tmp_path / "curves.png")


def test_a_curve_is_the_mean_of_the_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the mean of what a step cost them; the band reaches from the lowest to the highest."""
    make_group(tmp_path, "a", A)
    faster = (tmp_path / "a-1" / "metrics.jsonl").read_text().replace('"elapsed_s": 10.0', '"elapsed_s": 7.0')
    (tmp_path / "a-1" / "metrics.jsonl").write_text(faster)
    runs = read_runs(find_runs([tmp_path]))
    seconds, losses = curve(runs, COSTS["seconds"])
    assert seconds.tolist() == [5, 9] and losses[:, 1].tolist() == A
    assert curve(runs, COSTS["tokens"])[0].tolist() == [640, 1280]
    assert curve(runs, COSTS["FLOPs"])[0].tolist() == [runs[0].flops(10), runs[0].flops(20)]
    drawn: list[Any] = []
    monkeypatch.setattr(matplotlib.axes.Axes, "fill_between", lambda axes, *of, **more: drawn.append(of))
    show([tmp_path], tmp_path / "curves.png")
    np.testing.assert_allclose(drawn[1], [[5, 9], [5.0, 4.0], [5.2, 4.2]])


def test_a_curve_ends_where_each_seed_ended(tmp_path: Path) -> None:
    """With a time limit that is at another step for each."""
    make_run(tmp_path / "a", {8: 5.0, 16: 4.5, 20: 4.0})
    make_run(tmp_path / "b", {8: 5.5, 16: 4.0}, until=16, train__seed=1)
    tokens, losses = curve(read_runs([tmp_path / "a", tmp_path / "b"]), COSTS["tokens"])
    assert tokens.tolist() == [8 * 64, 18 * 64] and losses.tolist() == [[5.0, 4.0], [5.5, 4.0]]


def test_the_runs_of_a_sweep_stand_in_the_order_of_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that the baseline is the one that `sweep` took. What is no run of it stands behind."""
    axes = parse_axes(["model.activation=relu,gelu", "train.seed=1,0"])
    names = [one.name for one in combinations(axes)]
    for name in (*names, "a"):
        make_run(tmp_path / name, {20: 4.0})
    keep_or_check(tmp_path, axes, build_config(TINY))
    assert [path.name for path in find_runs([tmp_path])] == [*names, "a"] != sorted([*names, "a"])
    record = tmp_path / "sweep.toml"
    for text in ("[sweep]\n", "sweep = 1\n", "[sweep]\n'train.seed' = 1\n", "[train]\n"):
        record.write_text(text)
        assert run(tmp_path) == 2 and f"{record} is damaged" in capsys.readouterr().err
