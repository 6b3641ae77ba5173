"""What every command's parser has: errors in one sentence, an example in its help."""

import argparse
from collections.abc import Callable
from typing import NoReturn

Run = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="section.key=value",
        help="override a field of the config; may be given again",
    )  # fmt: skip


def add_command(
    commands: "argparse._SubParsersAction[Parser]", name: str, run: Run, help: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=help.capitalize() + ".", epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser
