"""The README's Python runs as printed, and its commands are accepted."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jaxllm import GPTConfig
from train.cli import build_parser
from train.config import SECTIONS

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize(
    "code", [CODE[0], pytest.param(CODE[1], marks=pytest.mark.newest), CODE[2]], ids=["ladder", "gpt", "activation"]
)
def test_python_blocks_run(code: str) -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    if "squared_relu" in code:
        assert "all 2 comparisons within tolerance" in printed[-1]
    if "generate" in code:
        assert "a rose is a rose" in printed[0]
        assert float(printed[-1]) < 1e-5


def test_commands_are_accepted() -> None:
    commands = [line.split("#")[0] for line in README.splitlines() if line.startswith("jaxllm ")]
    commands += re.findall(r"\.venv/bin/(jaxllm [^`]*)$", README, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(shlex.split(command)[1:])


def test_every_config_field_is_listed() -> None:
    from dataclasses import fields

    for section, make in SECTIONS.items():
        row = re.search(rf"^\| `\[{section}\]` \| (.*) \|$", README, re.MULTILINE)
        assert row, section
        assert set(re.findall(r"`(\w+)`", row[1])) - {"GPTConfig"} == {f.name for f in fields(make)}
    assert {f.name for f in fields(GPTConfig)} == {f.name for f in fields(SECTIONS["model"])}


def test_what_it_names_exists() -> None:
    root = Path(__file__).parents[2]
    for path in re.findall(r"`((?:jaxllm|train|configs|tests)/[\w/.-]+)`", README) + re.findall(
        r"\]\((\.\w.*?)\)", README
    ):
        assert (root / path).exists(), path
