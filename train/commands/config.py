"""`jaxllm config`: prints a config file with every field at its default."""

import argparse

from ..config import describe_fields
from .options import Parser


def add_options(parser: Parser) -> None:
    """The command has no options."""
    parser.runs(run, "jaxllm config > my-config.toml")


def run(arguments: argparse.Namespace) -> None:
    """Print a line for each field: its default, type and description. A field without a default is a comment."""
    rows = describe_fields()
    settings = [f"{'# ' if row.default == 'none' else ''}{row.name} = {row.default}" for row in rows]
    width, section = max(map(len, settings)), ""
    for row, setting in zip(rows, settings, strict=True):
        if row.section != section:
            print(("\n" if section else "") + f"[{row.section}]")
            section = row.section
        print(f"{setting:<{width}}  # {row.type}: {row.description}")
