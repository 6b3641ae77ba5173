"""What the parsers of commands share. This module does not import JAX."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any, NoReturn

from jaxllm.config import WEIGHTS

Run = Callable[[argparse.Namespace], int | None]  # does what a command does; returns its exit code, None for 0


class Parser(argparse.ArgumentParser):
    """argparse, with errors of one sentence and options of several numbers."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._numbers: list[str] = []

    def add_numbers(self, option: str, default: int, metavar: str, help: str) -> None:
        """An option of one or several whole numbers, which is a list.

        argparse's own (nargs="+") would take a file name after them for one of the numbers.
        """
        self.add_argument(option, type=numbers, default=[default], metavar=f"{metavar} ...", help=help)
        self._numbers.append(option)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """As argparse does."""
        return super().parse_known_args(join_numbers(sys.argv[1:] if args is None else args, self._numbers), namespace)

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def runs(self, run: Run, example: str) -> None:
        """Set the function that runs this command, and the example at the end of its help."""
        self.set_defaults(run=run)
        self.epilog = f"example:\n  {example}"


def join_numbers(words: Iterable[str], options: Collection[str]) -> list[str]:
    """The words of a command line, in which the numbers after one of the options are one word.

    >>> join_numbers(["--batch-size", "1", "8", "a.toml"], ["--batch-size"])
    ['--batch-size', '1 8', 'a.toml']
    """
    out: list[str] = []
    option = None
    for word in words:
        if option and word.isdigit() and out[-1] != option:
            out[-1] += f" {word}"
            continue
        out.append(word)
        if not word.isdigit():
            option = word if word in options else None
    return out


def numbers(text: str) -> list[int]:
    """The whole numbers in a text, at least one. Raises ValueError for other words."""
    return [int(word) for word in text.split() or [text]]


def add_parser(commands: "argparse._SubParsersAction[Parser]", name: str, help: str) -> Parser:
    """A parser for one of several commands; its help begins with the same line as theirs."""
    return commands.add_parser(
        name, help=help, description=f"{help[0].upper()}{help[1:]}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip


def add_run(parser: argparse.ArgumentParser, step: bool = True) -> None:
    """The run folder that a command reads, with or without the choice of a checkpoint."""
    parser.add_argument("path", metavar="RUN", help="run folder")
    if step:
        add_step(parser)


def add_step(parser: argparse.ArgumentParser) -> None:
    """`--step`, the checkpoint of a run."""
    parser.add_argument("--step", metavar="N|best", help="checkpoint of a run; default: the newest")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """`--set`, for fields of a config."""
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="section.key=value",
        help="override a field of the config (`jaxllm config` lists them); may be repeated",
    )  # fmt: skip


def add_code(parser: argparse.ArgumentParser) -> None:
    """`--code`, the file of a user's functions."""
    parser.add_argument(
        "--code", metavar="FILE.py", help="your file, whose functions the config names as FILE.py:FUNCTION; it is run"
    )


def add_sources(parser: argparse.ArgumentParser) -> None:
    """The texts that a command reads."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="text files, folders, .jsonl or .ndjson, any of them .gz, or named corpora",
    )  # fmt: skip


def add_tokenizer(parser: argparse.ArgumentParser, name: str = "path", **more: Any) -> None:
    """The tokenizer that a command uses."""
    parser.add_argument(name, metavar="TOKENIZER", help="a tokenizer.json, a run folder, or gpt2", **more)


def add_field(parser: argparse.ArgumentParser) -> None:
    """`--field`, for commands that read texts."""
    parser.add_argument("--field", default="text", metavar="NAME", help="key of the text in JSON lines; default text")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """The options of commands that read large texts in several processes."""
    add_field(parser)
    parser.add_argument("--processes", type=int, metavar="N", help="default: one for each core")


def add_writing(parser: argparse.ArgumentParser, most: int) -> None:
    """How a model writes: the fields of `train.writer.Options`, with at most so many tokens by default."""
    parser.add_argument("--max-new-tokens", type=int, default=most, metavar="N", help=f"default {most}")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0: the most likely token; default 0.8, for answers 0.2"
    )
    parser.add_argument("--top-k", type=int, metavar="K", help="sample from the K most likely tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P",
        help="sample from the fewest tokens whose probabilities reach P; default for answers 0.9",
    )  # fmt: skip
    parser.add_argument(
        "--min-p", type=float, metavar="P", help="leave out tokens less likely than P times the most likely one"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1: tokens that are in the text become less likely"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be repeated"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0; the same seed gives the same text")
    parser.add_argument(
        "--lookup", type=int, default=0, metavar="N",
        help="draft N tokens at a time by what followed the last ones before, and read them at once: the same text, "
        "sooner where it repeats itself (with int8 weights perhaps another); with temperature 0, then the default; "
        "0, the default, drafts none",
    )  # fmt: skip
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="float32", help="type that the weights are held in; default float32"
    )
