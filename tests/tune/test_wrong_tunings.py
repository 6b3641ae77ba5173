"""What `jaxllm tune` refuses: in one sentence, with exit code 2, and without a run that passes for whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from imported_runs import CONFIG, imported
from tuned_runs import LINES, OPTIONS, sets

from jaxllm.pretrained.chat import ChatFormat
from train.cli import main

pytestmark = pytest.mark.newest
MODEL = replace(CONFIG, activation="swiglu", use_bias=False)
GOOD = [json.dumps(line) for line in LINES["instruct"]]
TURNS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
NO_END = TURNS + "{% if add_generation_prompt %}assistant:{% endif %}"
RAISES = "{% if messages|length < 2 %}{{ raise_exception('two messages') }}{% endif %}" + NO_END.replace(";", "</s>")
FILES: dict[str, tuple[str, list[str], str]] = {
    "no JSON": ("instruct", [*GOOD, "{"], "line 21 of "),
    "no table": ("instruct", [*GOOD, "[1]"], "line 21 of "),
    "empty": ("instruct", [], "holds no examples"),
    "one line": ("instruct", GOOD[:1], "has 1 examples, of which"),
    "missing key": ("instruct", [*GOOD, '{"prompt": "a"}'], "has no 'answer', only"),
    "empty answer": ("instruct", [*GOOD, '{"prompt": "a", "answer": " "}'], "has an empty text under 'answer'"),
    "too long": ("instruct", [*GOOD, json.dumps({"prompt": "a" * 90, "answer": "b"})], "tokens, more than the 64 of"),
    "other kind": ("classify", GOOD, "line 1 of "),
    "one label": ("classify", ['{"text": "a", "label": "x"}'] * 4, "has the one label 'x'"),
    "same answers": ("prefer", ['{"prompt": "a", "chosen": "b", "rejected": "b"}'] * 4, "has the same text under"),
    "lone surrogate": ("instruct", [*GOOD, '{"prompt": "\\ud800", "answer": "b"}'], "line 21 of "),
}
SETTINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "rank": (("lora.rank=9",), "lora.rank is 9, but block_0/attention/key is [8, 8]; choose a rank from 1 to 8"),
    "negative": (("lora.rank=-1",), "lora.rank is -1, but it must be an integer >= 0"),
    "no map": (("lora.rank=2", "lora.targets=norm"), "lora.targets 'norm' matches none of the maps, which are"),
    "no rank": (("lora.targets=query",), "lora.targets is given, but lora.rank is 0"),
    "nothing": (("tune.train=none of them",), "tune.train is 'none of them', which matches none of the parameters"),
    "pattern": (("tune.train=[",), "tune.train is '[', which is no regular expression"),
    "base": (("lora.base=int4", "lora.rank=1"), "lora.base is 'int4', but it must be one of 'float32', 'int8'"),
    "dropout": (("lora.dropout=1", "lora.rank=1"), "lora.dropout is 1, but it must be a number < 1.0"),
    "beta": (("tune.beta=0",), "tune.beta is 0, but it must be a number > 0.0"),
    "beta of answers": (
        ("tune.beta=0.5",),
        "tune.beta is 0.5, but tune.kind is 'instruct'; leave it out: it is for prefer.",
    ),
    "labels of answers": (('tune.labels=["a", "b"]',), "tune.labels is ('a', 'b'), but tune.kind is 'instruct'"),
    "window": (("train.window=4",), "tokens, more than the 4 of a row"),
    "model": (("model.n_layers=3",), "model.n_layers is 3, but in "),
    "adapter": (("init.adapter=nowhere",), "nowhere"),
    "tokens": (("init.add_tokens=5",), "init.add_tokens is 5, but it must be a list"),
    "warm-up": (("optimizer.warmup_steps=9",), "optimizer.warmup_steps is 9, but there are only train.steps = 4"),
    "packing": (("tune.packing=maybe",), "tune.packing is 'maybe', but it must be true or false"),
    "packed pairs": (("tune.packing=true", "tune.kind=prefer"), "tune.packing is true, but tune.kind = "),
    "evaluations": (("eval.every=3", "checkpoint.every=4", "checkpoint.keep_best=1"), "would have no validation loss"),
    "another base": (("init.from=elsewhere",), "init.from is given by --set, but here it is given by BASE"),
    "other data": (("data.source=elsewhere",), "data.source is given by --set, but here it is given by DATA"),
    "a blank token": (('init.add_tokens=[" "]',), "init.add_tokens names ' ' twice or not at all"),
    "no day": (("tune.day=",), "tune.day is '', which is no day"),
    "what has adapters": (
        ("lora.rank=2", "tune.train=attention/query/kernel"),
        "matches block_0/attention/query/kernel, but that has an adapter; narrow lora.targets",
    ),
    "other weights": (("init.sha256=abc",), "holds other weights (fingerprint"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("base") / "base", MODEL)


def refusal(capsys: pytest.CaptureFixture[str], base: object, data: object, out: Path, *words: str) -> str:
    """What `jaxllm tune` says, in one line, with exit code 2; no run is left."""
    code = main(["tune", str(base), str(data), "--out", str(out), *sets(*OPTIONS), *words])
    said = capsys.readouterr().err
    assert code == 2 and said.count("\n") == 1, said
    assert not out.exists()
    return said


def written(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize("name", FILES)
def test_wrong_files(name: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind, content, message = FILES[name]
    data = written(tmp_path / "data.jsonl", content)
    assert message in refusal(capsys, base, data, tmp_path / "run", "--kind", kind)


@pytest.mark.parametrize("setting", SETTINGS)
def test_wrong_settings(setting: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = written(tmp_path / "data.jsonl", GOOD)
    options, message = SETTINGS[setting]
    assert message in refusal(capsys, base, data, tmp_path / "run", *sets(*options))


def test_wrong_words(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = written(tmp_path / "data.jsonl", GOOD), tmp_path / "run"
    assert "--epochs is 0" in refusal(capsys, base, data, out, "--epochs", "0")
    assert "train.steps is given as well" in refusal(capsys, base, data, out, "--epochs", "2")
    assert "absent.jsonl" in refusal(capsys, base, tmp_path / "absent.jsonl", out)
    assert "no/such/model" in refusal(capsys, "no/such/model", data, out)
    assert main(["tune", str(base), str(data), "--out", str(base)]) == 2
    assert "holds a run" in capsys.readouterr().err


def test_templates_that_teach_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without an end of turn; and one that cannot write the question of a sample."""
    data = written(tmp_path / "data.jsonl", GOOD)
    for i, (template, prompt, message) in enumerate(
        [(NO_END, "", "no end of turn after message 2"), (RAISES, "hi", "eval.prompt: ")]
    ):
        base = imported(tmp_path / f"base{i}", chat=ChatFormat(256, (257,), "<s>", "</s>", template))
        two = [json.dumps({"messages": [SYSTEM, *turns(line)]}) for line in LINES["instruct"]]
        given = data if i == 0 else written(tmp_path / "two.jsonl", two)
        assert message in refusal(capsys, base, given, tmp_path / "run", *sets(f"eval.prompt={prompt}"))


SYSTEM = {"role": "system", "content": "s"}


def turns(line: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["answer"]}]
