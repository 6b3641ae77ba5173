"""What `jaxllm tune` refuses: in one sentence, with exit code 2, and without a run that passes for whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from imported_runs import imported
from tuned_runs import LINES, OPTIONS, sets

from jaxllm.pretrained.chat import ChatFormat
from train.cli import main

pytestmark = pytest.mark.newest
GOOD = [json.dumps(line) for line in LINES["instruct"]]
NO_END = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}>{% endif %}"
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
SETTINGS: dict[str, tuple[str, str]] = {
    "lora.rank=9": ("lora.rank is 9", "8"),
    "lora.rank=-1": ("lora.rank is -1, but it must be", "0"),
    "lora.targets=none of them": ("lora.targets is", "none of them"),
    "tune.train=none of them": ("tune.train is 'none of them', which matches none", "such as"),
    "lora.base=int4": ("lora.base is 'int4'", "int8"),
    "tune.beta=0": ("tune.beta is 0", "greater than 0"),
    "train.window=4": ("more than the 4 of a row", "train.window"),
    "model.d_model=16": ("model.d_model is 16, but in", "leave [model] out"),
    "init.adapter=nowhere": ("nowhere", ""),
    "init.add_tokens=5": ("init.add_tokens is 5", ""),
    "optimizer.warmup_steps=9": ("optimizer.warmup_steps is 9", "train.steps = 4"),
    "tune.packing=maybe": ("tune.packing is 'maybe'", ""),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("base") / "base")


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
    said = refusal(capsys, base, data, tmp_path / "run", *sets(setting))
    assert all(part in said for part in SETTINGS[setting])


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
        [(NO_END, "", "writes no end of turn"), (RAISES, "hi", "eval.prompt: ")]
    ):
        base = imported(tmp_path / f"base{i}", chat=ChatFormat(256, (257,), "<s>", "</s>", template))
        two = [json.dumps({"messages": [SYSTEM, *turns(line)]}) for line in LINES["instruct"]]
        given = data if i == 0 else written(tmp_path / "two.jsonl", two)
        assert message in refusal(capsys, base, given, tmp_path / "run", *sets(f"eval.prompt={prompt}"))


SYSTEM = {"role": "system", "content": "s"}


def turns(line: dict[str, Any]) -> list[dict[str, str]]:
    return [{"role": "user", "content": line["prompt"]}, {"role": "assistant", "content": line["answer"]}]
