"""Every shipped config loads, says what it costs, and trains: one step of it, shrunk."""

import json
from dataclasses import fields
from pathlib import Path

import pytest

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer
from train.cli import main
from train.config import RunConfig, build_config, load_config, parse_override, to_toml

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
SHRUNK = {
    "model.d_model": 16, "model.n_layers": 1, "model.n_heads": 2,
    "model.context_length": 16, "train.steps": 1, "train.batch_size": 2, "train.grad_accumulation": 1,
    "optimizer.warmup_steps": 0, "eval.sample_tokens": 4,
}  # fmt: skip


def test_the_promised_configs_are_there() -> None:
    assert {"quickstart", "shakespeare-char", "gpt2-124m"} <= {p.stem for p in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_says_what_it_costs_and_trains(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = path.read_text().split("[data]")[0]
    assert all(line.startswith("#") for line in first.splitlines() if line)
    assert "2 cores" in first and "loss" in first
    if load_config(path).tokenizer.kind == "gpt2":
        gpt2 = request.getfixturevalue("gpt2")  # skips where GPT-2's files are not at hand
        request.getfixturevalue("monkeypatch").setattr(BPETokenizer, "gpt2", lambda: gpt2)
    (tmp_path / "docs.txt").write_text("A few words of English to try a config with.\n" * 30)
    shrunk = SHRUNK | {"data.source": tmp_path / "docs.txt"}
    if load_config(path).tokenizer.kind == "bpe":
        shrunk["tokenizer.vocab_size"] = 270
    sets = [f"--set={name}={value}" for name, value in shrunk.items()]
    assert main(["train", str(path), "--out", str(tmp_path / "run"), *sets]) == 0
    record = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert record["step"] == 1 and record["val_loss"] > 0


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_resolved_configs_read_back_as_they_were(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "c.toml") == config


def test_shakespeare_is_nanogpts_cpu_recipe() -> None:
    """github.com/karpathy/nanoGPT, README, "I only have a macbook": every setting of it."""
    c = load_config(CONFIGS[0].parent / "shakespeare-char.toml")
    m, o = c.model, c.optimizer
    assert (m.n_layers, m.n_heads, m.d_model, m.context_length, m.use_bias, m.dropout) == (4, 4, 128, 64, False, 0)
    assert (c.train.batch_size, c.train.steps, c.tokenizer.kind) == (12, 2000, "char")
    assert (o.learning_rate, o.min_learning_rate, o.warmup_steps) == (1e-3, 1e-4, 100)
    assert (o.beta1, o.beta2, o.weight_decay, o.clip_norm) == (0.9, 0.99, 0.1, 1.0)


def test_overrides() -> None:
    assert parse_override("train.steps=10") == ("train", "steps", 10)
    assert parse_override("optimizer.learning_rate = 1e-3") == ("optimizer", "learning_rate", 1e-3)
    assert parse_override("model.use_bias=false") == ("model", "use_bias", False)
    assert parse_override("data.source=a/b=c.txt") == ("data", "source", "a/b=c.txt")
    assert parse_override('eval.prompt="10"') == ("eval", "prompt", "10")
    assert parse_override("eval.prompt=1\nx = 2") == ("eval", "prompt", "1\nx = 2")
    assert build_config({}, ["model.n_layers=3", "model.n_layers=5"]).model.n_layers == 5


@pytest.mark.parametrize("text", [
    "2024", "-7", "1.50", "1e3", "0x10", "1_000", "true", "false", "nan", "inf", "1979-05-27", "07:32:00",
    "1979-05-27T07:32:00Z", "[1, 2]", "9" * 5000, "'not closed", "5 # no comment",
])  # fmt: skip
@pytest.mark.parametrize("field", ["data.source", "data.sha256", "tokenizer.path", "eval.prompt"])
def test_a_text_field_takes_any_text_as_it_is(field: str, text: str) -> None:
    section, key = field.split(".")
    assert parse_override(f"{field}={text}") == (section, key, text)


def test_the_fields_type_decides_what_an_override_is() -> None:
    for quoted in ('"2024"', "'2024'"):
        assert build_config({}, [f"data.source={quoted}"]).data.source == "2024"
    assert build_config({}, ["data.source=2024"]).data.source == "2024"
    assert build_config({}, ["eval.prompt={a = 1}"]).eval.prompt == "{a = 1}"  # a table only where a table may stand
    mixture = build_config({}, ["data.source={a = 1, 2024 = 0.5}"]).data
    assert mixture.source == {"a": 1.0, "2024": 0.5} and isinstance(mixture.source["a"], float)
    assert build_config({}, ["data.characters=10"]).data.characters == 10
    assert build_config({}, ["optimizer.beta1=0"]).optimizer.beta1 == 0
    for override, message in (
        ('train.steps="5"', "train.steps is '5', but it must be an integer"),
        ("train.steps=true", "train.steps is True, but it must be an integer"),
        ("train.remat=1", "train.remat is 1, but it must be true or false"),
        ("data.source={a = -1}", "data.source is .*, but it must be a number > 0"),
        ("data.sauce=1", "data.sauce is no config field; did you mean source"),
        ("date.source=1", r"\[date\] is no section of a config; did you mean data"),
    ):
        with pytest.raises(InputError, match=message):
            build_config({}, [override])
    with pytest.raises(InputError, match="data.source is 3, but it must be a string or a table of numbers"):
        build_config({"data": {"source": 3}})  # in a file, what is text stands in quotes


def test_every_section_stands_for_a_dataclass() -> None:
    assert [f.name for f in fields(RunConfig)] == [
        "data", "tokenizer", "model", "train", "optimizer", "eval", "checkpoint",
    ]  # fmt: skip
