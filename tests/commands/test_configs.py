"""Configs: every given one loads, states its cost and trains (a small copy, one step); overrides; rules and limits."""

import json
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from jaxllm import InputError
from jaxllm.tokenizers import BPETokenizer
from train.cli import main
from train.config import SECTIONS, ModelConfig, RunConfig
from train.config_file import build_config, load_config, parse_override, to_toml

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
SHRUNK = {
    "model.d_model": 16, "model.n_layers": 1, "model.n_heads": 2,
    "model.context_length": 16, "train.steps": 1, "train.batch_size": 2, "train.grad_accumulation": 1,
    "optimizer.warmup_steps": 0, "eval.sample_tokens": 4,
}  # fmt: skip


def test_the_promised_configs_are_there() -> None:
    assert {"quickstart", "shakespeare-char", "speedrun-char", "minute-char", "gpt2-124m", "plan-7b", "plan-70b"} <= {
        p.stem for p in CONFIGS
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_config_states_its_cost_and_trains(path: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    first = path.read_text().split("[data]")[0]
    assert all(line.startswith("#") for line in first.splitlines() if line)
    assert "2 cores" in first and "loss" in first
    if load_config(path).tokenizer.kind == "gpt2":
        gpt2 = request.getfixturevalue("gpt2")  # skips where GPT-2's files are not installed
        request.getfixturevalue("monkeypatch").setattr(BPETokenizer, "gpt2", lambda: gpt2)
    (tmp_path / "docs.txt").write_text("A few words of English to try a config with.\n" * 30)
    shrunk = SHRUNK | {"data.source": tmp_path / "docs.txt"}
    if load_config(path).tokenizer.kind == "bpe":
        shrunk["tokenizer.vocab_size"] = 270
    if load_config(path).model.n_kv_heads:
        shrunk["model.n_kv_heads"] = 1
    shrunk |= {f"parallel.{axis}": 1 for axis in ("data", "fsdp", "context", "tensor")}
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
    """Every setting of "I only have a macbook" in the README of github.com/karpathy/nanoGPT."""
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
    assert build_config({}, ["eval.prompt={a = 1}"]).eval.prompt == "{a = 1}"  # text, because the field takes no table
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
        build_config({"data": {"source": 3}})  # in a file a text needs quotes


SCALED = ["model.position='rotary'", "model.rope_factor=2.0"]
EXPERTS = ["model.n_experts=3", "model.activation=swiglu", "model.use_bias=false"]
RULES = {  # of two fields: settings at the limit, settings beyond it, and the error
    "checkpoint.keep_best": (
        ["checkpoint.keep_best=1", "checkpoint.every=6", "eval.every=3"],
        ["checkpoint.keep_best=1", "checkpoint.every=3", "eval.every=6"],
        "make checkpoint.every = 3 a multiple of eval.every = 6",
    ),
    "checkpoint.keep_best of one in four": (
        ["checkpoint.keep_best=0", "checkpoint.every=3", "eval.every=6"],
        ["checkpoint.keep_best=2", "checkpoint.every=7", "eval.every=6"],
        "checkpoint.keep_best is 2, but most checkpoints would have no validation loss",
    ),
    "optimizer.warmup_steps": (
        ["optimizer.warmup_steps=9", "train.steps=10"], ["optimizer.warmup_steps=10", "train.steps=10"],
        "optimizer.warmup_steps is 10, but there are only train.steps = 10",
    ),
    "optimizer.decay_share": (
        ["optimizer.warmup_steps=5", "train.steps=10", "optimizer.schedule=wsd", "optimizer.decay_share=0.5"],
        ["optimizer.warmup_steps=6", "train.steps=10", "optimizer.schedule=wsd", "optimizer.decay_share=0.5"],
        "with optimizer.decay_share = 0.5 the rate falls from step 5 on",
    ),
    "optimizer.beta1": (
        ["optimizer.beta1=0.0"], ["optimizer.beta1=0.0", "optimizer.name=schedule_free_adamw"],
        "optimizer.beta1 is 0, but schedule_free_adamw divides by it",
    ),
    "eval.weights": (
        ["eval.weights=schedule_free", "optimizer.name=schedule_free_adamw"], ["eval.weights=schedule_free"],
        "eval.weights is 'schedule_free', but optimizer.name = 'adamw' keeps no such average",
    ),
    "optimizer.min_learning_rate": (
        ["optimizer.min_learning_rate=0.5", "optimizer.learning_rate=0.5"],
        ["optimizer.min_learning_rate=0.6", "optimizer.learning_rate=0.5"],
        "optimizer.min_learning_rate is 0.6, above optimizer.learning_rate = 0.5",
    ),
    "train.grad_accumulation": (
        ["train.batch_size=6", "train.grad_accumulation=3"], ["train.batch_size=3", "train.grad_accumulation=6"],
        "train.batch_size is 3, which is not divisible by train.grad_accumulation = 6",
    ),
    "model.n_heads": (
        ["model.d_model=8", "model.n_heads=4"], ["model.d_model=4", "model.n_heads=8"],
        "model.d_model is 4, which is not divisible by model.n_heads = 8",
    ),
    "model.d_head": (
        ["model.d_model=9", "model.n_heads=4", "model.d_head=3"], ["model.d_model=9", "model.n_heads=4"],
        "or give model.d_head",
    ),
    "model.n_kv_heads": (
        ["model.d_model=12", "model.n_heads=6", "model.n_kv_heads=3"],
        ["model.d_model=12", "model.n_heads=3", "model.n_kv_heads=6"],
        "model.n_heads is 3, which is not divisible by model.n_kv_heads = 6",
    ),
    "model.separator": (
        ["model.vocab_size=5", "model.separator=4"], ["model.vocab_size=5", "model.separator=5"],
        "model.separator is 5, but the ids are 0 to 4",
    ),
    "model.separator of 0": (
        ["model.vocab_size=1", "model.separator=0"], ["model.vocab_size=1", "model.separator=1"],
        "model.separator is 1, but the ids are 0 to 0",
    ),
    "model.rope_low_frequency": (
        [*SCALED, "model.rope_low_frequency=2.0", "model.rope_high_frequency=2.5"],
        [*SCALED, "model.rope_low_frequency=2.5", "model.rope_high_frequency=2.5"],
        "model.rope_low_frequency is 2.5, but it must be below model.rope_high_frequency = 2.5",
    ),
    "model.rope_base": (
        [*SCALED, "model.rope_scaling=yarn", "model.rope_base=1.1"],
        [*SCALED, "model.rope_scaling=yarn", "model.rope_base=1.0"],
        "model.rope_base is 1.0 and the frequencies are 1.0 and 32.0, but YaRN needs a base above 1",
    ),
    "model.rope_high_frequency": (
        [*SCALED, "model.rope_scaling=yarn", "model.rope_low_frequency=1e-6", "model.rope_high_frequency=1e6"],
        [*SCALED, "model.rope_scaling=yarn", "model.rope_low_frequency=9e-7", "model.rope_high_frequency=1e6"],
        "frequencies from 1e-6 to 1e6",
    ),
    "model.n_experts_per_token": (
        [*EXPERTS, "model.n_experts_per_token=3"], [*EXPERTS, "model.n_experts_per_token=4"],
        "model.n_experts_per_token is 4, but there are only model.n_experts = 3",
    ),
    "model.activation": (
        [*EXPERTS, "model.activation=geglu"], [*EXPERTS, "model.activation=gelu"],
        "model.activation is 'gelu', but experts are gated; choose swiglu or geglu",
    ),
    "model.use_bias": (EXPERTS, [*EXPERTS, "model.use_bias=true"], "model.use_bias = true is not for experts"),
    "model.mup_base_width of experts": (
        EXPERTS, [*EXPERTS, "model.mup_base_width=64"], "model.mup_base_width = 64 is not for experts",
    ),
    "sinusoidal": (
        ["model.position='sinusoidal'", "model.d_model=6", "model.n_heads=2"],
        ["model.position='sinusoidal'", "model.d_model=5", "model.n_heads=1"],
        "sinusoidal positions come in pairs",
    ),
    "rotary": (
        ["model.position='rotary'", "model.d_model=9", "model.n_heads=3", "model.d_head=4"],
        ["model.position='rotary'", "model.d_model=9", "model.n_heads=3"],
        "a head is 3 wide, but rotary positions rotate pairs",
    ),
    "tokenizer.path": (
        ["tokenizer.kind='file'", "tokenizer.path='t.json'"], ["tokenizer.path='t.json'"],
        "tokenizer.path and tokenizer.kind = \"file\" go together",
    ),
    "model.mup_base_width": (
        ["model.mup_base_width=64", "optimizer.name=muon"], ["model.mup_base_width=64", "optimizer.name=sgd"],
        "optimizer.name is sgd, but model.mup_base_width is for adamw, muon, lion, schedule_free_adamw",
    ),
    "model.scale_embeddings": (
        ["model.scale_embeddings=true"], ["model.scale_embeddings=true", "model.mup_base_width=64"],
        "model.scale_embeddings makes embeddings grow with the width",
    ),
    "tokenizer.vocab_size": (
        ["tokenizer.kind='word'", "tokenizer.vocab_size=9"], ["tokenizer.kind='gpt2'", "tokenizer.vocab_size=9"],
        "kind = 'gpt2' has a size of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rules_of_two_fields_hold_up_to_their_limit_and_not_the_other_way_round(name: str) -> None:
    right, wrong, message = RULES[name]
    settings = [] if any(one.startswith("optimizer.warmup") for one in right) else ["optimizer.warmup_steps=0"]
    build_config({}, [*settings, *right])
    with pytest.raises(InputError) as error:
        build_config({}, [*settings, *wrong])
    assert message in str(error.value)


LIMITS = {  # the least and the greatest allowed value of a field
    "data.characters": (1, 2**31 - 1), "tokenizer.vocab_size": (1, 2**31 - 1), "model.vocab_size": (0, 2**24),
    "model.context_length": (1, 2**24), "model.d_model": (1, 2**17), "model.n_layers": (1, 1000),
    "model.n_heads": (1, 1024), "model.n_kv_heads": (1, 1024), "model.d_head": (1, 2**14), "model.d_ff": (1, 2**20), "model.mup_base_width": (1, 2**17),
    "model.rope_original_context": (1, 2**24), "model.sliding_window": (1, 2**24), "model.separator": (0, 2**31 - 1),
    "model.n_experts": (0, 4096), "model.n_experts_per_token": (1, 4096), "model.ngrams": (1, 8), "model.n_classes": (0, 2**16), "model.ngram_rows": (1, 2**24),
    "train.steps": (1, 2**31 - 1), "train.window": (1, 2**31 - 1), "lora.rank": (0, 2**31 - 1), "train.batch_size": (1, 2**20), "train.seed": (0, 2**31 - 1),
    "train.max_skipped": (0, 2**31 - 1), "optimizer.warmup_steps": (0, 2**31 - 1), "eval.every": (1, 2**31 - 1),
    "eval.sample_tokens": (1, 100_000), "checkpoint.every": (1, 2**31 - 1), "checkpoint.keep": (1, 2**31 - 1),
    "checkpoint.keep_best": (0, 2**31 - 1),
    "parallel.data": (1, 2**31 - 1), "parallel.fsdp": (1, 2**31 - 1), "parallel.context": (1, 2**31 - 1),
    "parallel.tensor": (1, 2**31 - 1),
}  # fmt: skip
TOGETHER = {
    "tokenizer.vocab_size": {"kind": "word"},
    "model.n_kv_heads": {"n_heads": 1024, "d_head": 2},
    "model.n_experts": {"activation": "swiglu", "use_bias": False, "n_experts_per_token": 1},
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_allowed_and_values_beyond_are_not(name: str) -> None:
    section, field = name.split(".")
    with_it = {"d_head": 2} if field in ("d_model", "n_heads") else {}
    for limit, beyond in zip(LIMITS[name], (-1, 1), strict=True):
        given = {**with_it, **TOGETHER.get(name, {})}
        if field == "n_heads":
            given["n_kv_heads"] = 1
        if field == "d_model":
            given["n_heads"] = 1
        assert getattr(SECTIONS[section](**given, **{field: limit}), field) == limit
        with pytest.raises(InputError, match=f"{name} is {limit + beyond}, but it must be an integer"):
            SECTIONS[section](**given, **{field: limit + beyond})


def test_every_whole_number_has_its_limits_here() -> None:
    """Except grad_accumulation, which must divide the batch size."""
    numbers = {
        f"{name}.{field}"
        for name, section in SECTIONS.items()
        for field, hint in get_type_hints(section, include_extras=True).items()
        if int in (get_args(hint) or (hint,)) or any(get_args(part)[:1] == (int,) for part in get_args(hint))
    }
    assert numbers - {"train.grad_accumulation"} == set(LIMITS)


def test_the_vocabulary_may_be_as_small_as_the_tokenizers() -> None:
    assert ModelConfig(vocab_size=9).with_vocabulary(9).vocab_size == 9
    assert ModelConfig(vocab_size=0).with_vocabulary(9).vocab_size == 9  # left out
    with pytest.raises(InputError, match="model.vocab_size is 8, smaller than the tokenizer's 9"):
        ModelConfig(vocab_size=8).with_vocabulary(9)


def test_every_section_stands_for_a_dataclass() -> None:
    assert [f.name for f in fields(RunConfig)] == [
        "data", "tokenizer", "model", "train", "optimizer", "eval", "checkpoint", "parallel", "init",
        "tune", "lora",
    ]  # fmt: skip
