"""The runs of a sweep: every combination of the values of `--set`, its name, and what their folder keeps of it."""

import hashlib
import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_file, replace_file

from .config import SECTIONS, RunConfig, with_absolute_paths
from .config_file import build_config, differences, keys, parse_override, to_toml

MOST_RUNS = 1000
LONGEST_NAME = 200  # characters; file systems have a limit
RECORD = "sweep.toml"
SEED = "train.seed"
ORDER = [f"{section}.{key}" for section in SECTIONS for key in keys(section)]
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|.', re.DOTALL)  # a string of TOML, or a character


class Axis(NamedTuple):
    """A field and the values that it takes, each with its text on the command line."""

    field: str
    texts: list[str]
    values: list[Any]


class Combination(NamedTuple):
    """A run of the sweep: the name of its folder, and what `jaxllm train` would be given by `--set`."""

    name: str
    overrides: list[str]


def split_values(text: str) -> list[str]:
    """The values between commas; a comma within quotes, brackets or braces belongs to its value.

    >>> split_values('[1, 2],"a, b",c')
    ['[1, 2]', '"a, b"', 'c']
    """
    parts, depth = [""], 0
    for token in TOKEN.findall(text):
        depth += (token in "[{") - (token in "]}")
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [part.strip() for part in parts] if len(parts) > 1 else parts


def parse_axes(settings: Iterable[str]) -> list[Axis]:
    """The fields that `--set` names, in the order of a config, the seed last: so the seeds of a config are neighbours.

    Raises InputError for an empty value, one that is given twice, and a field that is.
    """
    axes: dict[str, Axis] = {}
    for setting in settings:
        place, _, values = setting.partition("=")
        texts = split_values(values)
        if len(texts) > 1 and "" in texts:
            raise InputError(f"--set {shown(setting)} has an empty value; write a value between any two commas.")
        parsed = [parse_override(f"{place}={text}" if _ else setting) for text in texts]
        field = f"{parsed[0][0]}.{parsed[0][1]}"
        if field in axes:
            raise InputError(f"--set names {field} twice; give all its values in one, with commas between them.")
        found = [value for *_, value in parsed]
        for i, value in enumerate(found):
            if value in found[:i]:
                raise InputError(f"--set gives {field} the value {shown(value)} twice; leave one out.")
        axes[field] = Axis(field, texts, found)
    return sorted(axes.values(), key=lambda axis: (axis.field == SEED, _place(axis.field)))


def _place(field: str) -> int:
    return ORDER.index(field) if field in ORDER else len(ORDER)  # an unknown one is refused with its config


def combinations(axes: Sequence[Axis]) -> list[Combination]:
    """Every combination of the values. Raises InputError if there are fewer than two or more than MOST_RUNS."""
    n = math.prod(len(axis.values) for axis in axes)
    if n == 1:
        raise InputError(
            "no field has several values, so there is one run, which `jaxllm train` makes; for a sweep write "
            "for example --set train.seed=0,1,2."
        )
    if n > MOST_RUNS:
        raise InputError(f"the sweep has {n:,} runs, but at most {MOST_RUNS:,} are made; give fewer values.")
    chosen = list(itertools.product(*(range(len(axis.values)) for axis in axes)))
    names = _names([axis for axis in axes if len(axis.values) > 1])
    return [
        Combination(name, [f"{axis.field}={axis.texts[i]}" for axis, i in zip(axes, indices, strict=True)])
        for name, indices in zip(names, chosen, strict=True)
    ]


def _names(swept: Sequence[Axis]) -> list[str]:
    """A name for each combination: "learning_rate=0.001,seed=0". It depends on the combination alone if it can."""
    keys = Counter(axis.field.partition(".")[2] for axis in swept)
    labels = [axis.field if keys[key := axis.field.partition(".")[2]] > 1 else key for axis in swept]
    values = list(itertools.product(*(axis.values for axis in swept)))
    names = [
        ",".join(f"{label}={_in_a_name(value)}" for label, value in zip(labels, of_run, strict=True))
        for of_run in values
    ]
    count = Counter(name.casefold() for name in names)
    return [
        name
        if count[name.casefold()] == 1 and len(name) <= LONGEST_NAME
        else f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(repr(of_run).encode()).hexdigest()[:8]}"
        for name, of_run in zip(names, values, strict=True)
    ]


def _in_a_name(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)


def keep_or_check(folder: Path, axes: Sequence[Axis], first: RunConfig) -> None:
    """Write what the sweep consists of into its folder or, if it is there, compare it with this one.

    `first` is the config of the first combination. Raises InputError that names the first difference.
    """
    path, swept = folder / RECORD, {axis.field: axis.values for axis in axes if len(axis.values) > 1}
    first = with_absolute_paths(first)
    if not path.exists():
        replace_file(path, (to_toml(first) + "\n" + tomli_w.dumps({"sweep": swept})).encode())
        return
    then, before, _ = _recorded(path)
    for field in {**before, **swept}:
        old, new = (", ".join(map(repr, of[field])) if field in of else "one value" for of in (before, swept))
        if old != new:
            raise InputError(
                f"{folder} holds a sweep in which {field} has {old}, but the command says {new}; repeat its command to "
                "go on with it, or choose another folder with --out."
            )
    for name, old, new in differences(then, first):
        raise InputError(
            f"{folder} holds a sweep in which {name} is {shown(old)}, but here it is {shown(new)}; repeat its command "
            "to go on with it, or choose another folder with --out."
        )


def names_in_order(folder: Path) -> list[str]:
    """The names of a sweep's runs in the order of its command; none in another folder.

    Raises InputError if its record is damaged.
    """
    if not (path := folder / RECORD).exists():
        return []
    *_, chosen = _recorded(path)
    return [one.name for one in chosen]


def _recorded(path: Path) -> tuple[RunConfig, dict[str, list[Any]], list[Combination]]:
    """The first config of a sweep, the values of each field that has several, and the combinations of them."""
    try:
        sections = tomllib.loads(read_file(path).decode())
        swept: dict[str, list[Any]] = sections.pop("sweep")
        axes = [Axis(field, [*map(str, values)], values) for field, values in swept.items()]
        return build_config(sections), swept, combinations(axes)
    except (InputError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); bring it back, or name another folder.") from None
