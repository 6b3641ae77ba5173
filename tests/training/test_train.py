"""The program end to end on a tiny model: run folder, resume, and the commands that read a run."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from runs import TEXT, assert_same_run, lines, write_config

from jaxllm.tokenizers import load_tokenizer
from train.cli import main
from train.evaluate import evaluator
from train.inputs import prepare
from train.runs.checkpoint import Checkpoints
from train.runs.load import load_run
from train.runs.metrics import add_sample, drop_samples

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a config and a finished run."""
    folder = tmp_path_factory.mktemp("work")
    assert main(["train", str(write_config(folder)), "--out", str(folder / "run")]) == 0
    return folder


def test_the_run_folder_holds_what_it_should(folder: Path) -> None:
    run = folder / "run"
    names = {"config.toml", "tokenizer.json", "metrics.jsonl", "loss.png", "samples.txt", "checkpoints"}
    assert {p.name for p in run.iterdir()} == names
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert load_tokenizer(run / "tokenizer.json").vocab_size == 11
    assert sorted(int(p.name) for p in (run / "checkpoints").iterdir()) == [10, 12]  # keep = 2


def test_a_checkpoint_has_the_loss_of_its_own_step(folder: Path) -> None:
    """Step 10 was not evaluated, so it does not get the loss of step 8."""
    checkpoints = Checkpoints(folder / "run" / "checkpoints")
    ten, twelve = checkpoints.manifest(10), checkpoints.manifest(12)
    assert ten and ten.val_loss is None
    assert twelve and twelve.val_loss == lines(folder / "run")[-1]["val_loss"]
    assert checkpoints.best_step() == 12


def test_metrics(folder: Path) -> None:
    records = lines(folder / "run")
    assert [r["step"] for r in records] == list(range(1, 13))
    assert [r["tokens"] for r in records] == [32 * step for step in range(1, 13)]
    always = {"step", "tokens", "elapsed_s", "train_loss", "learning_rate", "grad_norm", "tokens_per_s", "data_wait_s"}
    for r in records:
        assert r.keys() - {"val_loss"} == always
        assert ("val_loss" in r) == (r["step"] in (4, 8, 12))
        assert np.isfinite(list(r.values())).all()
    assert records[0]["train_loss"] == pytest.approx(np.log(11), abs=0.1)
    assert [r["elapsed_s"] for r in records] == sorted(r["elapsed_s"] for r in records)
    assert 0 <= sum(r["data_wait_s"] for r in records) < records[-1]["elapsed_s"]
    assert records[-1]["val_loss"] < records[3]["val_loss"] < np.log(11)


def test_val_loss_is_the_mean_over_the_whole_validation_split(folder: Path) -> None:
    from jaxllm import reference

    run = load_run(folder / "run")
    ids = prepare(run.config, run.tokenizer).validation_ids
    assert len(ids) == len(TEXT) - int(0.9 * len(TEXT))
    losses = []
    for start in range(0, len(ids) - 1, 8):  # by hand: windows of 8, the last one shorter
        inputs, targets = ids[start : start + 8][: len(ids) - 1 - start], ids[start + 1 : start + 9]
        logits = reference.gpt.forward(run.model.config, run.params, inputs[None])
        losses += reference.loss.token_losses(logits[0], targets).tolist()
    assert len(losses) == len(ids) - 1
    assert lines(folder / "run")[-1]["val_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert evaluator(run.model, run.config)(run.params, ids) == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_config_is_resolved(folder: Path) -> None:
    config = tomllib.loads((folder / "run" / "config.toml").read_text())
    assert config["model"]["vocab_size"] == 11
    assert config["data"]["characters"] == len(TEXT)
    assert len(config["data"]["sha256"]) == 64
    assert config["optimizer"]["beta2"] == 0.99  # a default, recorded


def test_samples(folder: Path) -> None:
    samples = (folder / "run" / "samples.txt").read_text()
    assert [line.split(",")[0] for line in samples.splitlines() if line.startswith("-----")] == [
        "----- step 4", "----- step 8", "----- step 12",
    ]  # fmt: skip


def test_an_interrupted_run_resumes_to_the_same_result(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after step 9, beyond the checkpoint of step 5 and the sample of step 8, which are done again."""
    import train.loop

    def broken_off_at_step_9(*args: object) -> object:
        if args[4] == 9:  # the step
            raise KeyboardInterrupt
        return batch(*args)

    batch = train.loop.batch
    monkeypatch.setattr(train.loop, "batch", broken_off_at_step_9)
    run = folder / "stopped"
    assert main(["train", str(folder / "tiny.toml"), "--out", str(run)]) == 130
    assert lines(run)[-1]["step"] in (8, 9)
    monkeypatch.setattr(train.loop, "batch", batch)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "tok')  # a line cut short
    with (run / "samples.txt").open("a") as file:
        file.write("----- ste")  # a headline cut short
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert_same_run(run, folder / "run")


@pytest.mark.newest
def test_a_run_stopped_before_its_first_checkpoint_resumes_from_the_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import train.loop

    def killed(*_: object) -> object:
        raise KeyboardInterrupt

    run = folder / "young"
    with monkeypatch.context() as patch:
        patch.setattr(train.loop, "batch", killed)
        assert main(["train", str(folder / "tiny.toml"), "--out", str(run), "--set", "train.steps=3"]) == 130
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert [r["step"] for r in lines(run)] == [1, 2, 3]


@pytest.mark.newest
def test_resuming_a_finished_run_says_so_and_more_steps_extend_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / "extended"
    config = ["train", str(folder / "tiny.toml"), "--out", str(run)]
    assert main([*config, "--set", "train.steps=4"]) == 0
    before = (run / "metrics.jsonl").read_bytes()
    assert main(["train", "--out", str(run), "--resume"]) == 0
    assert "has all its 4 steps" in capsys.readouterr().out
    assert (run / "metrics.jsonl").read_bytes() == before
    assert main(["train", "--out", str(run), "--resume", "--set", "train.steps=6"]) == 0
    assert [r["step"] for r in lines(run)] == [1, 2, 3, 4, 5, 6]
    assert tomllib.loads((run / "config.toml").read_text())["train"]["steps"] == 6
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main(["train", "--out", str(run), "--resume", "--set", "train.steps=5"]) == 2
    assert "train.steps is 5, but" in capsys.readouterr().err
    assert (
        main(
            [
                "train",
                str(folder / "tiny.toml"),
                "--out",
                str(run),
                "--resume",
                "--set",
                "train.steps=7",
                "--set",
                "model.dropout=0.0",
            ]
        )
        == 2
    )
    assert "model.dropout was 0.1 in this run and cannot become 0.0" in capsys.readouterr().err
    (folder / "other.toml").write_text((folder / "tiny.toml").read_text().replace("dropout = 0.1", "use_bias = false"))
    for _ in range(2):  # also fields that are false or zero in one of the two
        assert main(["train", str(folder / "other.toml"), "--out", str(run), "--resume", "--set", "train.steps=7"]) == 2
    assert "model.dropout is 0.1 in" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.newest
def test_generate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*options: str) -> str:
        assert main(["generate", str(folder / "run"), "--prompt", "the ", "--max-new-tokens", "20", *options]) == 0
        return capsys.readouterr().out

    assert len(text()) == len("the ") + 20 + 1
    assert text().startswith("the ")
    assert text("--seed", "1") == text("--seed", "1") != text("--seed", "2")
    assert text("--temperature", "0") == text("--top-k", "1") == text("--top-p", "1e-6") == text("--min-p", "1")


def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder / "run")]) == 0
    printed = dict(line.split(maxsplit=1) if line[0] != "b" else line.split("  ", 1) for line in
                   capsys.readouterr().out.replace("validation loss", "validation_loss").splitlines())  # fmt: skip
    loss = lines(folder / "run")[-1]["val_loss"]
    assert float(printed["validation_loss"].split()[0]) == pytest.approx(loss, abs=1e-4)
    assert float(printed["perplexity"]) == pytest.approx(np.exp(loss), rel=1e-3)
    assert float(printed["bits per byte"]) == pytest.approx(loss / np.log(2), rel=1e-3)  # one byte a character
    (folder / "other.txt").write_text("the mat sat on the cat.")
    assert main(["evaluate", str(folder / "run"), "--data", str(folder / "other.txt")]) == 0
    assert "tokens           22" in capsys.readouterr().out


@pytest.mark.newest
def test_json_lines_whose_text_has_another_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`data.field` is recorded, so that later commands read the same text."""
    corpus, run, new = tmp_path / "corpus.NDJSON", tmp_path / "run", ["--set", "train.steps=4"]
    half = TEXT[: len(TEXT) // 2]
    corpus.write_text("".join(json.dumps({"text": "no", "body": half}) + "\n" for _ in range(2)))
    sets = ["--set", f"data.source={corpus}", "--set", "data.field=body", "--set", "train.steps=3"]
    assert main(["train", str(folder / "tiny.toml"), "--out", str(run), *sets]) == 0
    assert tomllib.loads((run / "config.toml").read_text())["data"]["field"] == "body"
    assert f"({2 * len(half) + 1:,} characters" in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert main(["train", "--out", str(run), "--resume", *new]) == 0
    capsys.readouterr()
    assert main(["train", "--out", str(run), "--resume", *new, "--set", "data.field=text"]) == 2
    assert "data.field was 'body' in this run and cannot become 'text'" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"body": "the cat", "content": "the mat."}))
    for more, tokens in ([], 6), (["--field", "content"], 7):
        assert main(["evaluate", str(run), "--data", str(other), *more]) == 0
        assert f"tokens           {tokens}" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--data", str(other), "--field", "text"]) == 2
    assert "has no text under 'text'; its texts are body, content: name one with" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--field", "content"]) == 2
    assert "--field is 'content', but there is no --data whose text it names; give both" in capsys.readouterr().err


@pytest.mark.newest
def test_a_model_with_more_ids_than_its_tokenizer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "padded"
    sets = ["model.vocab_size=500", "train.steps=3", "eval.sample_tokens=100", "model.dropout=0.0"]
    assert main(["train", str(folder / "tiny.toml"), "--out", str(run), *[f"--set={s}" for s in sets]]) == 0
    assert load_run(run).params["token_embedding"]["table"].shape == (500, 16)
    for temperature in ("0", "5"):
        assert main(["generate", str(run), "--prompt", "the", "--temperature", temperature]) == 0


def test_a_run_is_read_from_another_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    config = ["train", "tiny.toml", "--set", "data.source=text.txt", "--set", "train.steps=3"]
    assert main([*config, "--out", "near"]) == 0
    assert main([*config, "--out", "near", "--resume"]) == 0  # the same source by its relative name
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(folder / "near")]) == 0
    assert "bits per byte" in capsys.readouterr().out


@pytest.mark.newest
def test_damage_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "damaged"
    shutil.copytree(folder / "run", run)
    more = ["train", "--out", str(run), "--resume", "--set", "train.steps=14"]
    metrics = run / "metrics.jsonl"
    whole = metrics.read_text()
    metrics.write_text(whole.replace('{"step": 4,', '{"step" 4,'))
    assert main(more) == 2
    assert "line 4 of" in (error := capsys.readouterr().err) and error.count("\n") == 1
    metrics.write_text(whole)

    (run / "checkpoints" / "12" / "state" / "_METADATA").write_bytes(b"")
    for command in (more, ["generate", str(run), "--prompt", "the"], ["evaluate", str(run)]):
        assert main(command) == 2
        assert "the checkpoint of step 12 is damaged" in (error := capsys.readouterr().err) and error.count("\n") == 1

    (run / "config.toml").write_text(
        (folder / "run" / "config.toml").read_text().replace("d_model = 16", "d_model = 32")
    )
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(folder / "run" / "checkpoints", run / "checkpoints")
    assert main(["generate", str(run), "--prompt", "the"]) == 2
    error = capsys.readouterr().err
    assert "model.d_model was 16 when step 12 was saved, but is 32 in config.toml" in error and error.count("\n") == 1


def test_samples_of_any_text_are_kept(tmp_path: Path) -> None:
    """A text may hold every character that Python takes for a line end, and lines that are almost headlines."""
    path = tmp_path / "samples.txt"
    text = "a\x0cb\u2028c\r\nd\x85\n----- step 9999, as ever\n"
    add_sample(path, 4, 2.0, text)
    before = path.read_bytes()
    add_sample(path, 8, 1.0, text)
    drop_samples(path, 7)
    assert path.read_bytes() == before
    drop_samples(path, 3)
    assert path.read_bytes() == b""


def test_an_evaluation_prompt_beyond_the_context_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(write_config(tmp_path))
    options = ["--set", "train.steps=1", "--set", "eval.sample_tokens=1", "--set", "optimizer.warmup_steps=0"]
    for prompt, said in (("the cat ", False), ("the cat s", True)):
        run = str(tmp_path / f"run{said}")
        assert main(["train", config, "--out", run, *options, "--set", f"eval.prompt={prompt}"]) == 0
        note = "note: eval.prompt has 9 tokens, but the model reads only the last 8, because its context holds 8;"
        assert (note in capsys.readouterr().err) == said
