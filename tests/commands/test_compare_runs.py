"""`jaxllm compare A B`: two runs that agree, that part at a step, and that have little in common."""

import json
import shutil
from pathlib import Path

import pytest
from imported_runs import imported
from runs import write_config

from train.cli import main
from train.commands.compare_places import split_step

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

OTHERS = {
    "wide": ["model.d_model=8", "model.n_layers=2", "train.seed=1", "train.steps=8"],
    "bytes": ["tokenizer.kind=bpe", "tokenizer.vocab_size=260", "train.steps=3"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs: `here` of 12 steps with the steps 5, 10 and 12 saved, and others."""
    folder = tmp_path_factory.mktemp("runs")
    config, keep = str(write_config(folder)), ["--set", "checkpoint.keep=3"]
    assert main(["train", config, "--out", str(folder / "here"), *keep]) == 0
    for name, overrides in OTHERS.items():
        words = [word for override in overrides for word in ("--set", override)]
        assert main(["train", config, "--out", str(folder / name), *keep, *words]) == 0
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the runs to work in, with a second copy `there` of `here`."""
    shutil.copytree(trained, tmp_path / "runs")
    shutil.copytree(trained / "here", tmp_path / "runs" / "there")
    monkeypatch.chdir(tmp_path / "runs")
    return tmp_path / "runs"


def change(run: Path, step: int, by: float, field: str = "train_loss") -> None:
    """Add to a field of the metrics from a step on."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        if record["step"] >= step:
            record[field] += by * record["step"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def test_equal_runs_agree_to_the_bit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert main(["compare", "here", "there"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("here, step 12, and there, step 12; errors relative to")
    assert "metrics.jsonl: 12 steps in both; they agree" in out and "\nthe configs agree, and so do" in out
    assert "they agree to the bit: 20 parameters, 6 values on the same text, 12 steps of metrics" in out
    assert before == {p: p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_the_first_step_where_the_metrics_part(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(place / "there", 7, 1e-4)
    assert main(["compare", "here", "there", "--json", "parting.json"]) == 1
    out = capsys.readouterr().out
    assert "12 steps in both; they part at step 7\n  train_loss" in out and "off by 7.0e-04" in out
    assert "equal there: tokens, learning_rate, grad_norm" in out
    assert "train_loss is furthest apart at step 12" in out and "look at the update of step 6" in out
    assert "both have saved step 5 before: jaxllm compare here:5 there:5" in out
    assert "they part: metrics from step 7 on; equal are 20 parameters, 6 values" in out
    saved = json.loads((place / "parting.json").read_text())
    assert not saved["agree"] and saved["metrics"]["part_at"] == 7 and saved["steps"] == [12, 12]
    assert saved["metrics"]["fields"]["train_loss"]["off"] == pytest.approx(7e-4)
    assert main(["compare", "here", "there", "--tolerance", "1e-2"]) == 0
    assert "they agree within 1e-02" in capsys.readouterr().out


def test_two_checkpoints_of_a_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "here:5", "here:12"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("here:5, step 5, and here:12, step 12;") and "metrics" not in out
    assert "BEYOND" in out and "they part: 20 of 20 parameters, 6 of 6 values on the same text" in out
    assert main(["compare", "here:5", "there", "--step", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == [5, 5]


def test_the_newest_step_that_both_have(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "there" / "checkpoints" / "12")
    assert main(["compare", "here", "there"]) == 0
    note = "both are read at step 10, the newest that both have saved; the newest of each are 12 and 10"
    assert note in capsys.readouterr().out
    shutil.rmtree(place / "there" / "checkpoints" / "10")
    shutil.rmtree(place / "here" / "checkpoints" / "5")
    assert main(["compare", "here", "there"]) == 1
    assert "steps 12 and 5 are compared, because no step is saved by both" in capsys.readouterr().out


def test_another_architecture_and_number_of_steps(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "here", "wide"]) == 1
    out = capsys.readouterr().out
    for line in ("model.d_model", "model.n_layers", "train.seed", "train.steps"):
        assert f"\n{line} " in out
    assert "held to nothing  (only in wide)" in out and "8 steps in both; here has 4 more; they part at step 1" in out
    assert "look at the initial weights, the first batch, or the forward pass; or it is what differs above" in out
    loss = next(line for line in out.splitlines() if line.startswith("  loss "))
    assert "BEYOND" in loss and " and " in loss


def test_another_tokenizer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Logits of other tokens say nothing; the losses are of the same text."""
    assert main(["compare", "here", "bytes", "--batch-size", "4"]) == 1
    out = capsys.readouterr().out
    assert "bits per byte of the same text, which the tokenizers cut differently: " in out
    assert "logits" not in out and "tokenizers" in out.splitlines()[-1]
    assert main(["compare", "here", "bytes", "--batch-size", "4", "--json"]) == 1
    assert all(0.1 < bits < 10 for bits in json.loads(capsys.readouterr().out)["bits_per_byte"])


def test_what_is_missing_is_left_out_with_a_sentence(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(place / "imported")
    imported(place / "again")
    assert main(["compare", "imported", "again", "--length", "8"]) == 0
    assert "metrics are left out: an imported model has no steps (imported, again)" in capsys.readouterr().out
    shutil.rmtree(place / "there" / "checkpoints")
    assert main(["compare", "here", "there"]) == 0
    out = capsys.readouterr().out
    assert "weights are left out: no checkpoint yet in there" in out and "they agree to the bit: 12 steps" in out
    (place / "there" / "metrics.jsonl").unlink()
    assert main(["compare", "here", "there"]) == 2
    assert "here and there have neither checkpoints nor metrics to compare" in capsys.readouterr().err


def test_a_text_that_is_gone(place: Path, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run in ("here", "there"):
        config = place / run / "config.toml"
        config.write_text(config.read_text().replace(f"{trained}/text.txt", "gone.txt"))
    assert main(["compare", "here", "there"]) == 0
    out = capsys.readouterr().out
    assert "the text is left out: " in out and "gone.txt" in out and "they agree to the bit: 20 parameters, 12" in out


@pytest.mark.parametrize(("words", "message"), [
    ("here here", "both are here at step 12; name another run, or two steps as RUN:STEP"),
    ("here:5 here --step 5", "both are here at step 5"),
    ("here absent", "absent is no run folder; two runs are compared as RUN or RUN:STEP"),
    ("here absent:5", "absent:5 is no run folder"),
    ("tiny.toml here", "tiny.toml is no run folder; two runs are compared as RUN or RUN:STEP, a config only alone"),
    ("here .", "no run folder: it has no config.toml"),
    ("here there:7", "--step is '7', but"),
    ("here there --out error.png", "--out is for a comparison with the reference"),
    ("here there --set train.steps=3", "--set is for a comparison with the reference"),
    ("here there --tolerance -1", "--tolerance is -1.0, but it must be a number from 0"),
    ("here there --tolerance nan", "--tolerance is nan, but it must be a number from 0"),
    ("here there --json config.toml", "--json config.toml: the name of the file must end in .json"),
    ("here --tolerance 1e-3", "--tolerance is 0.001, but only two runs are compared within one"),
    ("here there --length 99", "--length is 99, more than model.context_length = 8"),
    ("here there --batch-size 999", "--batch-size is 999, but the validation split has"),
])  # fmt: skip
def test_wrong_input(words: str, message: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxllm compare: ") and message in error and error.count("\n") == 1


def test_a_step_is_told_from_a_name_with_a_colon(tmp_path: Path) -> None:
    for name in ("a", "a:5", "b"):
        (tmp_path / name).mkdir()
    assert split_step(f"{tmp_path}/a:5", "7") == (f"{tmp_path}/a:5", "7")
    assert split_step(f"{tmp_path}/b:best", "7") == (f"{tmp_path}/b", "best")
    assert split_step("absent:5", None) == ("absent:5", None)


def test_the_step_of_one_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "here:5"]) == 0
    assert "here, step 5, " in capsys.readouterr().out
