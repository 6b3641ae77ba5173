"""Runs on prepared data: the same bits as from memory, mixtures, and refusal of data that do not fit."""

import json
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
from runs import TEXT, lines, write_config

from jaxllm.data import shards
from jaxllm.data.mixture import Mixture
from jaxllm.data.shard_writer import prepare_shards
from jaxllm.data.shards import open_split, read_index
from jaxllm.tokenizers import BPETokenizer, CharTokenizer
from train.cli import main
from train.commands.compare import model_without_text
from train.config_file import build_config
from train.inputs import prepare

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]
TIMES = {"elapsed_s", "tokens_per_s", "data_wait_s"}
DOCUMENTS = [f"the cat number {i} sat on the mat{' and sat' * (i % 5)}.\n" for i in range(200)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and its shards, with their config; and a corpus of documents prepared with byte pairs."""
    folder = tmp_path_factory.mktemp("shards")
    write_config(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxllm.data.shard_writer.CHUNK", 300)
        patch.setattr("jaxllm.data.shard_writer.JOBS_PER_SHARD", 1)
        patch.setattr("jaxllm.tokenizers.chunks.CHUNK", 300)
        prepare_shards([str(folder / "text.txt")], CharTokenizer.train(TEXT), folder / "chars", validation=0)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    (folder / "docs.txt").write_text("".join(DOCUMENTS))
    tok = BPETokenizer.train(DOCUMENTS, 280)
    tok.save(folder / "tok.json")
    prepare_shards([str(folder / "corpus.jsonl")], tok, folder / "pairs", validation=0.1)
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run on the shards, by a config without a tokenizer."""
    (folder / "shards.toml").write_text((folder / "tiny.toml").read_text().replace('[tokenizer]\nkind = "char"\n', ""))
    source = f"data.source={folder}/chars"
    assert main(["train", str(folder / "shards.toml"), "--out", str(folder / "run"), "--set", source]) == 0
    return folder / "run"


def test_a_run_from_shards_is_the_run_from_memory(folder: Path, run: Path, tmp_path: Path) -> None:
    assert len(list((folder / "chars").glob("train-*"))) == 5
    assert main(["train", str(folder / "tiny.toml"), "--out", str(tmp_path / "memory")]) == 0
    memory, stored = (
        [{k: v for k, v in line.items() if k not in TIMES} for line in lines(path)]
        for path in (tmp_path / "memory", run)
    )
    assert memory == stored  # every loss and gradient norm, to the bit
    assert (tmp_path / "memory" / "samples.txt").read_text() == (run / "samples.txt").read_text()


def test_a_run_from_shards_goes_on(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tomllib.loads((run / "config.toml").read_text())["tokenizer"]
    assert written == {"kind": "file", "path": str(folder / "chars" / "tokenizer.json")}
    for config in ([], [str(folder / "shards.toml"), "--set", f"data.source={folder}/chars"]):
        assert main(["train", *config, "--out", str(run), "--resume"]) == 0
        assert "has all its 12 steps" in capsys.readouterr().out


def configured(folder: Path, source: object, **sections: dict[str, object]) -> object:
    base = tomllib.loads((folder / "tiny.toml").read_text()) | {"data": {"source": source}, "tokenizer": {}}
    return build_config({name: values | sections.get(name, {}) for name, values in base.items()})


def test_a_mixture_of_shards_and_text(folder: Path) -> None:
    run = prepare(configured(folder, {str(folder / "pairs"): 3, str(folder / "docs.txt"): 1}))
    assert isinstance(run.train_ids, Mixture) and run.train_ids.quotas == (768, 256)
    assert run.tokenizer.vocab_size == 280 == run.model.vocab_size
    shares = [len(prepare(configured(folder, source)).validation_ids) for source in (str(folder / "pairs"),)]
    assert len(run.validation_ids) > shares[0]
    assert run.first_id == int(run.train_ids.sources[0][:1][0])
    sources = tomllib.loads(f"[data]\nsource = {{ '{folder}/pairs' = 0.75, '{folder}/docs.txt' = 0.25 }}")["data"]
    assert prepare(configured(folder, sources["source"])).train_ids.quotas == (768, 256)


def test_the_validation_split_is_that_of_the_documents(folder: Path) -> None:
    run = prepare(configured(folder, str(folder / "pairs")))
    index = shards.read_index(folder / "pairs")
    np.testing.assert_array_equal(run.validation_ids[:], shards.open_split(folder / "pairs", index, "validation")[:])
    assert run.config.data.sha256 == index.sha256 and run.config.data.characters == sum(map(len, DOCUMENTS))


def test_a_tokenizer_file_is_used_as_it_is(folder: Path) -> None:
    tokenizer = {"kind": "file", "path": str(folder / "tok.json")}
    run = prepare(configured(folder, str(folder / "docs.txt"), tokenizer=tokenizer))
    assert run.tokenizer == prepare(configured(folder, str(folder / "pairs"))).tokenizer
    assert prepare(configured(folder, str(folder / "pairs"), tokenizer=tokenizer)).tokenizer.vocab_size == 280
    for config in (configured(folder, "python-docs", tokenizer=tokenizer), configured(folder, str(folder / "pairs"))):
        assert model_without_text(config).vocab_size == 280


def test_attention_within_documents_by_one_line_of_the_config(folder: Path) -> None:
    source = str(folder / "pairs")
    run = prepare(configured(folder, source, data={"attend_across": False}))
    assert run.model.separator == run.config.model.separator == run.tokenizer.end_of_text == 279
    assert np.count_nonzero(run.train_ids[:] == 279) > 100
    assert prepare(configured(folder, source)).model.separator is None
    again = prepare(run.config, run.tokenizer)
    assert again.model == run.model


def damaged(folder: Path, place: Path, change: str) -> Path:
    shutil.copytree(folder / "pairs", place / "pairs")
    path = place / "pairs" / "train-00000.bin"
    content = bytearray(path.read_bytes())
    if change == "flip":
        content[len(content) // 2] ^= 4
    path.write_bytes(content if change == "flip" else content[:-2])
    return place / "pairs"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.source=FOLDER/flip/pairs"], "train-00000.bin is damaged: its sha256 is"),
        (["data.source=FOLDER/cut/pairs"], "it was cut short or changed; prepare the data again"),
        (["data.source={'FOLDER/pairs' = 1, 'FOLDER/chars' = 1}"], "chars was prepared with another tokenizer, of 11 ids"),
        (["data.source=FOLDER/pairs", "tokenizer.kind=file", "tokenizer.path=FOLDER/other.json"], "pairs was prepared with another tokenizer"),
        (["data.source=FOLDER/pairs", "tokenizer.kind=char"], "which would be trained, but"),
        (["data.source=FOLDER/pairs", "model.vocab_size=279"], "model.vocab_size is 279, smaller than the tokenizer's 280"),
        (["data.source=FOLDER/chars", "data.attend_across=false"], "in FOLDER/chars no token separates one document"),
        (["data.source=FOLDER/text.txt", "data.attend_across=false"], "in FOLDER/text.txt no token separates one document"),
        (["tokenizer.kind=file"], "tokenizer.path and tokenizer.kind = \"file\" go together"),
        (["tokenizer.path=x"], "tokenizer.path and tokenizer.kind = \"file\" go together"),
        (["data.source={}"], "data.source names no source"),
        (["data.source={'FOLDER/text.txt' = 0}"], "data.source is {"),
        (["data.source=3"], "data.source '3' is no file or folder"),
        (["data.source={'FOLDER/text.txt' = 1, 'FOLDER/docs.txt' = 1e-9}"], "the smallest is below 1/1,024 of all"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    folder: Path, run: Path, tmp_path: Path, settings: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if not (folder / "flip").exists():
        for change in ("flip", "cut"):
            damaged(folder, folder / change, change)
        BPETokenizer.train("other", 258).save(folder / "other.json")
    config = folder / "shards.toml"
    overrides = [word for setting in settings for word in ("--set", setting.replace("FOLDER", str(folder)))]
    assert main(["train", str(config), "--out", str(tmp_path / "run"), *overrides]) == 2
    error = capsys.readouterr().err
    assert message.replace("FOLDER", str(folder)) in error and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_evaluate_on_prepared_data(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--data", str(folder / "chars")]) == 0
    out = capsys.readouterr().out
    assert f"validation loss  {lines(run)[-1]['val_loss']:.4f}" in out and "tokens           143" in out
    assert main(["evaluate", str(run), "--data", str(folder / "pairs")]) == 2
    assert "was prepared with another tokenizer" in capsys.readouterr().err


def test_the_id_0_may_separate_documents(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, text in (("1.txt", "it's more"), ("2.txt", "it")):
        (tmp_path / "in" / name).write_text(text)
    tok = BPETokenizer([bytes([i]) for i in range(256)], {"<|endoftext|>": 0})
    index = prepare_shards([str(tmp_path / "in")], tok, tmp_path / "out", validation=0)
    assert index.separator == tok.end_of_text == 0 and read_index(tmp_path / "out").separator == 0
    stored = open_split(tmp_path / "out", index, "train")[:].tolist()
    assert stored == [*tok.encode("it's more"), 0, *tok.encode("it")]
