"""Which of their arrays is which of ours: a map of names, and how each array is laid out; read and written as TOML.

A line of the map, under [parameters] or [outputs], where {i} is the number of the block:

    "block_{i}/norm_1/scale" = "h.{i}.ln_1.weight"
    "block_{i}/attention/query/kernel" = { from = "h.{i}.attn.c_attn.weight", transpose = true, part = [0, 3] }
    "block_{i}/attention/key/kernel" = { from = "blocks.{i}.heads.{h}.key.weight", transpose = true }
    "block_{i}/residual_1" = { from = "h.{i}.ln_2", input = true }

Outputs are the results of their modules, by the names of `jaxllm.gpt.apply_with_intermediates`.
"""

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import Meta

from jaxllm.utils.errors import InputError, nearest, printable, shown
from jaxllm.utils.files import read_file

Index = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Count = Annotated[int, Meta(ge=1, le=2**20)]
PATTERN_OF = re.compile(r"^block_\d+\b")
PLACEHOLDERS = re.compile(r"\{(.*?)\}")


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where one of our arrays comes from. The steps go in the order of the fields; features are the last axis."""

    from_: str = msgspec.field(name="from")  # with {i} the number of the block, with {h} those of all heads, joined
    input: bool = False  # of a module: its first argument, not its result
    axes: tuple[Index, ...] | None = None  # a permutation: [0, 2, 1, 3] makes [B, T, H, K] of [B, H, T, K]
    merge: bool = False  # the last two axes as one: [..., H, K] -> [..., H K]
    transpose: bool = False  # the last two axes change places: kernels of ours are [in, out]
    heads: Count | None = None  # features are stored head by head, the parts of each together: [H, parts, K]
    part: tuple[Index, Count] | None = None  # [k, n]: the k-th of n equal parts of the features, k from 0
    columns: tuple[Index, Index] | None = None  # [a, b]: features a to b - 1, of parts that are not equal
    add: float = 0.0  # is added: 1 to the scale of a norm that multiplies by 1 + weight


class NameMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The sources of our parameters and of our intermediates, by our names."""

    parameters: dict[str, str | Source] = {}
    outputs: dict[str, str | Source] = {}


def of_layer(sources: Mapping[str, str | Source], n_layers: int) -> dict[str, Source]:
    """The sources by full names, with the number of each block in the place of {i}; those of an empty name left out."""
    out = {}
    for name, given in sources.items():
        if not given:  # not filled in
            continue
        source = Source(given) if isinstance(given, str) else given
        for i in range(n_layers if "{i}" in name else 1):
            theirs = source.from_.replace("{i}", str(i))
            out[name.replace("{i}", str(i))] = msgspec.structs.replace(source, from_=theirs)
    return out


def names_of(source: Source, found: Iterable[str]) -> list[str]:
    """The names in `found` that a source takes: one, or with {h} those of all heads in order; [] if there is none."""
    if "{h}" not in source.from_:
        return [source.from_] if source.from_ in set(found) else []
    before, _, after = source.from_.partition("{h}")
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    matches = [match for match in map(pattern.fullmatch, found) if match]
    return [match.string for match in sorted(matches, key=lambda match: int(match[1]))]


def take(source: Source, arrays: Mapping[str, np.ndarray], add: bool = True) -> np.ndarray | None:
    """Our array in float64, from theirs by name; None if it is not there. `add` is false for gradients.

    Raises ValueError where the layout does not fit the array.
    """
    parts = [_laid_out(source, np.asarray(arrays[name], np.float64)) for name in names_of(source, arrays)]
    if not parts:
        return None
    x = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
    return x + source.add if add and source.add else x


def _laid_out(source: Source, x: np.ndarray) -> np.ndarray:
    if source.axes is not None:
        x = x.transpose(source.axes)
    if source.merge:
        x = x.reshape(*x.shape[:-2], -1)
    if source.transpose:
        x = x.swapaxes(-1, -2)
    number, of = source.part or (0, 1)
    if source.heads is not None:  # [H, parts, K] -> [parts, H, K]
        x = x.reshape(*x.shape[:-1], source.heads, of, -1).swapaxes(-2, -3).reshape(x.shape)
    if source.part is not None:
        if x.shape[-1] % of or number >= of:
            raise ValueError(f"{x.shape[-1]} features have no part {number} of {of}")
        width = x.shape[-1] // of
        x = x[..., number * width : (number + 1) * width]
    if source.columns is not None:
        start, stop = source.columns
        if not start < stop <= x.shape[-1]:
            raise ValueError(f"{x.shape[-1]} features have no columns {start} to {stop}")
        x = x[..., start:stop]
    return x


def read_map(path: str | Path, parameters: Iterable[str], outputs: Iterable[str]) -> NameMap:
    """The map in a TOML file. `parameters` and `outputs` are the names that ours may have.

    Raises InputError if the file cannot be read or a line of it is wrong.
    """
    try:
        content = tomllib.loads(read_file(path).decode())
        names = msgspec.convert(content, NameMap)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, msgspec.ValidationError, RecursionError) as error:  # TOML's and UTF-8's are ValueErrors
        raise InputError(f"{path} is no map of names: {printable(str(error))}.") from None
    for table, ours in (("parameters", parameters), ("outputs", outputs)):
        valid = {PATTERN_OF.sub("block_{i}", name) for name in ours}
        for name, source in getattr(names, table).items():
            if PATTERN_OF.sub("block_{i}", name) not in valid:
                raise InputError(f"{path} has {shown(name)} under [{table}]: {nearest(name, sorted(valid))}")
            _check_placeholders(path, name, source if isinstance(source, str) else source.from_)
    return names


def _check_placeholders(path: str | Path, name: str, theirs: str) -> None:
    unknown = [one for one in PLACEHOLDERS.findall(theirs) if one not in ("i", "h")]
    if unknown:
        raise InputError(f"{path} has {{{unknown[0]}}} in {shown(theirs)}; write {{i}} for a block, {{h}} for a head.")
    if "{i}" in theirs and "{i}" not in name:
        raise InputError(f"{path} takes {shown(theirs)} for {shown(name)}, which is in no block; leave out {{i}}.")


def to_toml(names: NameMap) -> str:
    """The map as TOML, one line for each name."""
    lines = []
    for table in ("parameters", "outputs"):
        lines += [f"[{table}]", *(f"{_text(k)} = {_inline(source)}" for k, source in getattr(names, table).items()), ""]
    return "\n".join(lines)


def _inline(source: str | Source) -> str:
    """The name, or an inline table where there is more to say than a name."""
    fields: dict[str, Any] = {"from": source} if isinstance(source, str) else msgspec.to_builtins(source)
    if not fields.get("add", True):
        del fields["add"]
    if set(fields) == {"from"}:
        return _text(fields["from"])
    return "{ " + ", ".join(f"{key} = {_text(value)}" for key, value in fields.items()) + " }"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
