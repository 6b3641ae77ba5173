"""`jaxllm config`: prints a config file with every field at its default, each with its type and description.

All of it comes from the dataclasses of the sections.
"""

import argparse
import dataclasses
import inspect
import re
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tomli_w

from jaxllm.utils.ideas import Idea

from ..config import SECTIONS
from ..config_file import keys
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


class FieldDescription(NamedTuple):
    """A field of a config."""

    section: str
    name: str
    type: str  # "integer", "number", "text", "boolean", "text or table" or the choices, '"char" | "word"'
    default: str  # as in a config file; "none" where the field has no value
    description: str


def describe_fields() -> list[FieldDescription]:
    """All fields in the order of the sections. The description is the comment on the line that defines a field."""
    return [
        FieldDescription(name, key, _type_text(hints[f.name]), _toml(f.default), comments.get(f.name, ""))
        for name, section in SECTIONS.items()
        for hints, comments in [(get_type_hints(section), _comments(section))]
        for key, f in zip(keys(name), dataclasses.fields(section), strict=True)
    ]


def _comments(section: type) -> dict[str, str]:
    """Each field's comment in the source of a dataclass and of those that it extends."""
    sources = [inspect.getsource(one) for one in reversed(section.__mro__) if dataclasses.is_dataclass(one)]
    return dict(found for source in sources for found in re.findall(r"^    (\w+): .*?  # (.+)$", source, re.MULTILINE))


def _type_text(hint: Any) -> str:
    """A type in words, without its limits and None."""
    kind = get_origin(hint) or hint
    if kind is Literal:
        return " | ".join(_toml(choice) for choice in get_args(hint))
    words = {
        int: "integer", float: "number", str: "text", bool: "boolean", dict: "table", tuple: "list of texts",
        Idea: '"FILE.py:FUNCTION"',
    }  # fmt: skip
    return words[kind] if kind in words else " or ".join(_type_text(p) for p in get_args(hint) if p is not type(None))


def _toml(value: Any) -> str:
    """A value as in a config file; a number as short as it can be."""
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, float) else tomli_w.dumps({"x": value}).removeprefix("x = ").strip()
