"""The grids of the page of `jaxllm learn show`: which numbers each holds, and what made them, as JSON."""

from base64 import b64encode
from dataclasses import asdict
from typing import Any

import numpy as np

from jaxllm import GPTConfig

from ...config import OptimizerConfig
from .axes import Axes, GridAxis
from .formulas import operations, update_operations
from .stations import BY_HEAD, SHAPES, Station, inside, stations
from .theirs import Theirs
from .values import Trace

SIDES = ("value", "gradient", "update")


class Sheet:
    """The grids of a model for one text, one after another in two blocks of numbers: the model's and the twin's."""

    def __init__(
        self, config: GPTConfig, axes: Axes, rule: OptimizerConfig, ours: Trace, twin: Trace, theirs: Theirs
    ) -> None:  # fmt: skip
        self.grids: dict[str, dict[str, Any]] = {}
        self._axes, self._ours, self._twin, self._theirs = axes, ours, twin, theirs
        self._numbers: list[np.ndarray] = []
        self._twins: list[np.ndarray] = []
        parameters = list(ours.updates)
        self._extra = {
            "i": _words("token", "target"), "s": _words("mean", "s"), "m": _words("mean of dz", "mean of dz·z"),
            "n": _words(*map(_in_block, parameters)),
        }  # fmt: skip
        self._made = operations(config, axes, set(parameters))
        self._made |= update_operations(rule, {name: np.ndim(x) for name, x in ours.updates.items()})

    def card(self, name: str) -> list[list[str]]:
        """The grids of an array, added where they are new: value, gradient and update of each head; none if absent."""
        found = [[self._add(side, name, head) for side in SIDES] for head in self._heads(name)]
        return [[grid for grid in of_head if grid] for of_head in found if any(of_head)]

    def _add(self, side: str, name: str, head: str) -> str | None:
        """The id of one grid; None where the model has no such array."""
        ours, twin = (getattr(trace, f"{side}s").get(name) for trace in (self._ours, self._twin))
        if ours is None:
            return None
        grid = f"{side}:{name}{head}"
        if grid not in self.grids:
            known = self._theirs.made_by.get(key := key_of(side, name, head))
            ours, twin = (x[int(head[1:])] if head else x for x in (ours, twin))
            ours = self._theirs.arrays[key] if known else ours
            rows, columns = tuple(SHAPES[inside(name)])
            index = np.ix_(self._take(rows), self._take(columns))
            at = sum(map(np.size, self._numbers))
            for numbers, x in ((self._numbers, ours), (self._twins, twin)):
                numbers.append(_as_grid(x, rows)[index])
            made = self._made.get(grid, {"do": "given", "says": "a parameter of the model"})
            shape = {"rows": rows, "columns": columns, "at": at}
            self.grids[grid] = {"title": titled(name, head), "side": side, **shape, "made": made, "yours": known}
        return grid

    def notes(self, names: tuple[str, ...]) -> list[str]:
        """Sentences on which grids of these arrays are the learner's, and why others are not."""
        keys = [key_of(side, name, head) for name in names for side in SIDES for head in self._heads(name)]
        whose = [(key, self._theirs.made_by[key]) for key in keys if key in self._theirs.made_by]
        verdict = {who: "and not right; `jaxllm learn check` looks for the mistake" for who in self._theirs.wrong}
        made = [
            f"{'Updates made' if key.startswith('update:') else 'Made'} by your {who}, {verdict.get(who, 'and right')}."
            for key, who in whose
        ]
        failed = [f"{self._theirs.failed[key]}; the numbers are ours." for key in keys if key in self._theirs.failed]
        return [*dict.fromkeys(made + [says[0].upper() + says[1:] for says in failed])]

    def _heads(self, name: str) -> list[str]:
        by_head = name.rpartition("/")[2] in BY_HEAD and "/attention/" in name
        return [f"/{h}" for h in self._axes.heads] if by_head else [""]

    def _take(self, letter: str) -> list[int]:
        axis = self._axes.by_letter.get(letter) or self._extra.get(letter)
        return axis.take if axis else [0]

    def axes(self) -> dict[str, Any]:
        """The labels of rows and columns, by letter."""
        return {letter: asdict(axis) for letter, axis in (self._axes.by_letter | self._extra).items()}

    def numbers(self) -> dict[str, str]:
        """The numbers of all grids in base64: the model's as little-endian float32, the twin's as float64."""
        kinds = (("numbers", self._numbers, "<f4"), ("twins", self._twins, "<f8"))
        return {key: b64encode(_joined(parts).astype(kind).tobytes()).decode() for key, parts, kind in kinds}


def key_of(side: str, name: str, head: str) -> str:
    """The name in `Theirs` of an array, of a head of it, or of an update."""
    return {"value": "", "gradient": "gradient:", "update": "update:"}[side] + name + head


def titled(name: str, head: str = "") -> str:
    """What a reader calls an array.

    >>> titled("block_0/attention/query/kernel"), titled("block_1"), titled("block_0/attention/weights", "/1")
    ('query kernel', 'result of block 1', 'weights, head 1')
    """
    usual = {
        "pairs": "tokens and targets", "token_embedding": "embedding", "position_embedding": "embedding + position",
        "simple": "simple attention", "attention": "attention", "residual_1": "residual after attention", "mlp": "MLP",
        "block": f"result of {name.replace('_', ' ')}", "losses": "loss of each position", "loss": "mean loss",
        "sampling/scaled": "logits / 0.8", "sampling": "chances of the next token", "step/norms": "norms of gradients",
        "step/norm": "norm of them all", "step/clip": "factor of clipping", "mlp/gelu": "activations",
        "attention/merged": "merged heads",
    }  # fmt: skip
    words = inside(name)
    shorter = words.removeprefix("attention/").removeprefix("mlp/").replace("_", " ").replace("/", " ")
    return usual.get(words, shorter) + (f", head {head[1:]}" if head else "")


def _in_block(name: str) -> str:
    """The title of a parameter, after the number of its block."""
    block, _, rest = name.partition("/")
    return f"{block.removeprefix('block_')}: {titled(name)}" if block.startswith("block_") and rest else titled(name)


def _words(*labels: str) -> GridAxis:
    return GridAxis([*range(len(labels))], len(labels), [*labels])


def _as_grid(x: np.ndarray, rows: str) -> np.ndarray:
    """One row of a vector, or one column where each row has a number."""
    x = np.asarray(x)
    return x if x.ndim == 2 else x.reshape(1, -1) if rows == "1" else x.reshape(-1, 1)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def page_data(
    config: GPTConfig, axes: Axes, rule: OptimizerConfig, ours: Trace, twin: Trace, theirs: Theirs
) -> dict[str, Any]:  # fmt: skip
    """All that the page shows, as JSON."""
    sheet = Sheet(config, axes, rule, ours, twin, theirs)
    shown = [_station(sheet, station) for station in stations(config, axes.blocks)]
    shown = [station for station in shown if station["makes"]]
    return {"stations": shown, "axes": sheet.axes(), "grids": sheet.grids, **sheet.numbers()}


def _station(sheet: Sheet, station: Station) -> dict[str, Any]:
    group = "" if "/" not in station.key else station.key.split("/")[0].replace("block_", "Block ")
    cards = {
        part: [grids for name in getattr(station, part) for grids in sheet.card(name)]
        for part in ("reads", "parameters", "makes")
    }
    notes = sheet.notes(station.makes + station.parameters)
    told = {"key": station.key, "piece": station.piece, "title": station.title, "says": station.says, "notes": notes}
    return told | {"group": group} | cards
