"""A command is a file: `jaxllm NAME` is train/commands/NAME.py, and no other command's module is imported for it."""

import argparse
import ast
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import train.cli
from jaxllm.tokenizers import BPETokenizer
from train.cli import COMMANDS, build_parser, command_module, main

FOLDER = Path(train.cli.__file__).parent / "commands"
HEAVY = ("jinja2", "matplotlib", "orbax", "urllib.request")  # imported where they are used


def test_every_command_is_a_file_and_every_file_with_options_a_command() -> None:
    with_options = {
        path.stem.removesuffix("_")
        for path in FOLDER.glob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name == "add_options"
    }
    assert with_options == set(COMMANDS)
    for name in COMMANDS:
        assert (command_module(name).__doc__ or "").startswith(f"`jaxllm {name}`")


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of everything that can be run."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield parser
    for action in below:
        for one in action.choices.values():
            yield from parsers(one)


def test_every_help_ends_with_an_example_that_is_accepted() -> None:
    parser = build_parser()
    leaves = list(parsers(parser))
    assert len(leaves) > len(COMMANDS)
    for leaf in leaves:
        for example in leaf.format_help().split("example:")[1].strip().splitlines():
            assert example.strip().startswith(leaf.prog)
            words = shlex.split(example.partition(" > ")[0])
            assert parser.parse_args(words[1:]).run


@pytest.mark.parametrize(
    "words", ["", "--help", "--version", "trian", "config", "config --help", "tokenizer --help", "data prepare --help"]
)
def test_what_answers_without_jax(words: str) -> None:
    code = f"""
import sys
from train.cli import main
try:
    main({words.split()})
except SystemExit as stop:
    assert stop.code == {2 if words in ("", "trian") else 0}
assert "jax" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_encoding_imports_only_what_it_needs(tmp_path: Path) -> None:
    """No model, no bar, no chat template and no download."""
    tokenizer, text = tmp_path / "tok.json", tmp_path / "text.txt"
    BPETokenizer.train("a text of few words, few words", 260).save(tokenizer)
    text.write_text("few words")
    code = f"""
import sys
from train.cli import main
assert main(["tokenizer", "encode", {str(tokenizer)!r}, {str(text)!r}]) == 0
print([name for name in {HEAVY + ("jax", "flax", "rich")} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["train", "generate"])
def test_a_model_is_not_kept_waiting_by_what_it_may_never_need(command: str) -> None:
    code = f"""
import sys, train.cli
train.cli.command_module({command!r})
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_long_command_restarts_before_jax_is_imported() -> None:
    """Or JAX would be imported twice, and so would NumPy."""
    code = """
import sys, train.cli
sys.argv = ["jaxllm", "train", "--help"]
train.cli.restart_with_allocator = lambda: sys.exit(17 + bool({"jax", "numpy"} & sys.modules.keys()))
train.cli.main()
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 17


@pytest.mark.parametrize("words", [["evaluate", "--help"], ["--help"], []])
def test_other_commands_do_not_restart(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    restarts: list[str] = []
    monkeypatch.setattr(train.cli, "restart_with_allocator", lambda: restarts.append("restarted"))
    monkeypatch.setattr(sys, "argv", ["jaxllm", *words])
    with pytest.raises(SystemExit):
        main()
    with pytest.raises(SystemExit):
        main(["train", "--help"])  # a call from Python
    assert not restarts


def test_the_help_of_train_names_the_list_of_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "`jaxllm config`" in capsys.readouterr().out
