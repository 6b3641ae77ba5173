"""`jaxllm config`: every field with its section, default, type and description, from the dataclasses themselves."""

from dataclasses import fields
from pathlib import Path

import pytest

from train.cli import main
from train.commands.config import FieldDescription, describe_fields
from train.config import SECTIONS, RunConfig
from train.config_file import load_config


def test_what_it_prints_is_a_config_of_defaults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    (tmp_path / "defaults.toml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "defaults.toml") == RunConfig()


def test_what_it_prints_has_a_line_for_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    sections = "\n".join(lines).split("\n\n")
    assert [section.split("\n")[0] for section in sections] == [f"[{name}]" for name in SECTIONS]
    for section in sections:
        name, *settings = section.split("\n")
        listed = [setting.removeprefix("# ").partition(" = ")[0] for setting in settings]
        assert [f"[{row.section}]" for row in describe_fields() if row.name in listed].count(name) == len(listed)
    assert "# d_ff = none                   # integer: width of the hidden layer of the MLP; none: 4 D" in lines
    assert (
        'dtype = "float32"               # "float32" | "bfloat16": of the computation; parameters stay float32' in lines
    )


def test_every_field_is_described() -> None:
    rows = describe_fields()
    assert [row[:2] for row in rows] == [
        (name, f.name.removesuffix("_")) for name, section in SECTIONS.items() for f in fields(section)
    ]
    assert not [row for row in rows if not row.description or not row.type]


@pytest.mark.parametrize(
    ("section", "name", "type", "default"),
    [
        ("data", "source", "text or table", '"python-docs"'),
        ("data", "attend_across", "boolean", "true"),
        ("tokenizer", "kind", '"char" | "word" | "bpe" | "gpt2" | "file"', "none"),
        ("model", "vocab_size", "integer", "0"),
        ("model", "rope_base", "number", "10000"),
        ("model", "n_kv_heads", "integer", "none"),
        ("optimizer", "learning_rate", "number", "0.001"),
        ("eval", "prompt", "text", '""'),
    ],
)
def test_types_and_defaults(section: str, name: str, type: str, default: str) -> None:
    found: list[FieldDescription] = [row for row in describe_fields() if row[:2] == (section, name)]
    assert [(row.type, row.default) for row in found] == [(type, default)]
