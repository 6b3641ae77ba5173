"""Every README: its Python runs as printed, its commands are accepted, and what it names exists."""

import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import jax
import pytest
from models import random_gpt

from jaxllm import GPTConfig, save_pretrained
from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer
from train.cli import build_parser
from train.config import SECTIONS

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(ROOT.glob(".github/*.md")),
    *sorted(path for room in ("configs", "jaxllm", "train", "tests") for path in (ROOT / room).rglob("README.md")),
]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TEXTS = dict(zip(NAMES, (page.read_text(encoding="utf-8") for page in PAGES), strict=True))
PRINTED = {  # a part of a block, and what one of its last lines must match
    "simple_attention": r"MultiHeadAttention +token 2 sees x x x \. \. \.",
    "generate(": r"(?s)a rose is a rose.*\d\.\d+e-0[67]$",
    "jaxllm.look(": r"block_1 +adds [+-]\d+\.\d\d to the logit of Paris$",
    "assert_close_to_reference": r"all [12] comparisons within tolerance",
}


def blocks(language: str) -> list[tuple[str, str]]:
    """Each page's name with a block of that language."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [(name, block) for name, text in TEXTS.items() for block in fence.findall(text)]


# A loop that imports the program is run, and killed on the way, by training/test_training.py.
PYTHON = [(page, code) for page, code in blocks("python") if "jaxllm_train" not in code]


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(*block, marks=pytest.mark.newest if "generate(" in block[1] or "look(" in block[1] else [])
        for block in PYTHON
    ],
    ids=[f"{page}-{i}" for i, (page, _) in enumerate(PYTHON)],
)
def test_python_blocks_run(page: str, code: str, tmp_path: Path) -> None:
    if 'load_pretrained("gpt2")' in code:
        write_gpt2(tmp_path / "gpt2")
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part, pattern in PRINTED.items():
        if part in code:
            assert re.search(pattern, done.stdout.strip()), done.stdout


def write_gpt2(folder: Path) -> None:
    """A folder like GPT-2's, with random weights, whose tokens are bytes."""
    config = GPTConfig(vocab_size=256, context_length=32, d_model=8, n_layers=2, n_heads=2)
    save_pretrained(folder, config, jax.device_get(random_gpt(config)[1]))
    save_tokenizer_files(folder, BPETokenizer([bytes([i]) for i in range(256)]))


def test_every_expectation_is_of_a_block() -> None:
    assert all(any(part in code for _, code in PYTHON) for part in PRINTED)


@pytest.mark.parametrize("page", NAMES)
def test_commands_are_accepted(page: str) -> None:
    lines = [line for name, block in blocks("sh") if name == page for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(command, comments=True) for line in lines for command in line.split(" && ")]
    ours = [words[1:] for words in commands if words and words[0] in ("jaxllm", ".venv/bin/jaxllm")]
    for words in ours:
        try:
            build_parser().parse_args(words)
        except SystemExit:
            pytest.fail(f"jaxllm {shlex.join(words)}")
    assert ours or page not in ("README.md", "configs/README.md", "train/README.md", "train/bench/README.md")


@pytest.mark.parametrize("page", NAMES)
def test_what_it_names_exists(page: str) -> None:
    paths = re.findall(r"`((?:jaxllm|train|configs|tests|\.ci|\.github)/[\w/.-]+)`", TEXTS[page])
    missing = [path for path in paths if not (ROOT / path).exists()]
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXTS[page])
    missing += [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]
    assert not missing


def test_the_tests_that_commands_name_exist() -> None:
    scripts = [*(block for _, block in blocks("sh")), (ROOT / ".ci" / "run").read_text(encoding="utf-8")]
    paths = [path for script in scripts for path in re.findall(r"\btests/\w[\w/.]+", script)]
    assert len(paths) >= 10 and [path for path in paths if not (ROOT / path).exists()] == []


def test_every_config_field_is_listed_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+\.\w+)` \| .+? \| (\S+) \| .+ \|$", TEXTS["configs/README.md"], re.MULTILINE)
    want = [
        (f"{section}.{f.name.removesuffix('_')}", as_printed(f.default))
        for section, make in SECTIONS.items()
        for f in fields(make)
    ]
    assert rows == want
    assert {f.name for f in fields(GPTConfig)} == {f.name for f in fields(SECTIONS["model"])}


def as_printed(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(default))
    return f'"{default}"' if isinstance(default, str) else f"{default:g}"


def test_every_command_is_in_the_first_readme() -> None:
    (commands,) = (action.choices for action in build_parser()._actions if action.dest == "command")
    assert commands is not None
    named = set(re.findall(r"^jaxllm (\w+)", TEXTS["README.md"], re.MULTILINE))
    assert named == set(commands)
