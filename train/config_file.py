"""Config files: TOML to a RunConfig, with overrides, and back.

An unknown key is an error that names the nearest valid one. A run writes its resolved config back as TOML.
"""

import dataclasses
import tomllib
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import tomli_w

from jaxllm.utils.errors import InputError, nearest, printable, shown
from jaxllm.utils.files import read_file
from jaxllm.utils.ideas import with_names
from jaxllm.utils.utf8 import without_mark

from .config import SECTIONS, RunConfig


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The config of a TOML file, with `section.key=value` overrides. Raises InputError for anything wrong."""
    try:
        sections = tomllib.loads(without_mark(read_file(path), path).decode())
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}.") from None
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a TOML file: {printable(str(error))}.") from None
    return build_config(sections, overrides)


def build_config(sections: dict[str, Any], overrides: Iterable[str] = ()) -> RunConfig:
    """The config of nested dicts, checked. Raises InputError naming the first wrong section, key or value."""
    for override in overrides:
        section, key, value = parse_override(override)
        sections = sections | {section: _table(section, sections.get(section, {})) | {key: value}}
    built = {}
    for name, values in sections.items():
        if name not in SECTIONS:
            raise InputError(f"[{printable(name, 60)}] is no section of a config; {nearest(name, SECTIONS)}")
        names = keys(name)
        for key in _table(name, values):
            if key not in names:
                raise InputError(f"{name}.{printable(key, 60)} is no config field; {nearest(key, list(names))}")
        try:
            built[name] = SECTIONS[name](**{names[key]: value for key, value in values.items()})
        except InputError as error:
            # The other fields of [model] have their defaults here, not the base's, so that the reason may mislead.
            if name == "model" and _table("init", sections.get("init", {})).get("from"):
                raise InputError(
                    f"{' and '.join(f'model.{key}' for key in values)} cannot be given beside init.from: the base "
                    f"decides the model ({str(error).rstrip('.')}); leave [model] out."
                ) from None
            raise
    return RunConfig(**built)


def _table(name: str, values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        name = printable(name, 60)
        raise InputError(f"{name} is {shown(values)}, but it must be a section: [{name}] and a line for each field.")
    return values


def parse_override(text: str) -> tuple[str, str, Any]:
    """`"train.steps=100"` -> ("train", "steps", 100): the value as in TOML, or else a bare string.

    For a text field, a number, a boolean or a date is taken as text: `data.source=2024`.
    """
    place, equals, value = text.partition("=")
    section, dot, key = place.strip().partition(".")
    if not (equals and dot and section and key):
        raise InputError(f"--set {shown(text)} is not understood; write --set section.key=value.")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return section, key, value
    kinds = _kinds(section, key)
    bare = len(parsed) > 1 or (str in kinds and type(parsed["value"]) not in kinds)
    return section, key, value if bare else parsed["value"]


def _kinds(section: str, key: str) -> list[Any]:
    """The types that a field takes, without their limits; [None] if there is no such field."""
    hint = get_type_hints(SECTIONS[section]).get(keys(section).get(key, key)) if section in SECTIONS else None
    kinds = (hint,) if get_origin(hint) is tuple else get_args(hint) or (hint,)
    return [get_origin(kind) or kind for kind in kinds]


def to_toml(config: RunConfig) -> str:
    """The config as a TOML file; fields that are None are left out."""
    tables = {
        section: {key: value for key, value in values.items() if value is not None}
        for section, values in as_dict(config).items()
    }
    return tomli_w.dumps(tables)


def as_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The sections as nested dicts, with the names of functions."""
    return {section: with_names(values) for section, values in sections(config).items()}


def sections(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The sections as nested dicts, by the keys of a config file."""
    return {
        section: {key.removesuffix("_"): value for key, value in values.items()}
        for section, values in dataclasses.asdict(config).items()
    }


def keys(section: str) -> dict[str, str]:
    """The keys of a section of a config file, each with the name of its field: Python has no field named `from`."""
    return {field.name.removesuffix("_"): field.name for field in fields(SECTIONS[section])}


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """The fields that differ: ("train.steps", 100, 200)."""
    a, b = as_dict(old), as_dict(new)
    return [(f"{s}.{k}", a[s][k], b[s][k]) for s in a for k in a[s] if a[s][k] != b[s][k]]
