"""The grids of the page of `jaxllm learn show`: which numbers each holds, and what made them, as JSON for its script."""

from base64 import b64encode
from dataclasses import asdict
from typing import Any

import numpy as np

from jaxllm import GPTConfig

from ..config import OptimizerConfig
from .page_axes import Axes, Axis
from .page_formulas import operations, update_operations
from .page_stations import BY_HEAD, SHAPES, Station, inside, stations
from .page_values import Named, Trace

SIDES = ("value", "gradient", "update")


class Sheet:
    """The grids of a model for one text, one after another in two blocks of numbers: the model's and the twin's."""

    def __init__(self, config: GPTConfig, axes: Axes, rule: OptimizerConfig, ours: Trace, twin: Trace) -> None:
        self.grids: dict[str, dict[str, Any]] = {}
        self._axes, self._ours, self._twin = axes, ours, twin
        self._numbers: list[np.ndarray] = []
        self._twins: list[np.ndarray] = []
        parameters = list(ours.updates)
        self._extra = {"i": _words("token", "target"), "s": _words("mean", "s"), "m": _words("mean of dz", "mean of dz·z"), "n": _words(*parameters)}
        self._made = operations(config, axes, set(parameters))
        self._made |= update_operations(rule, {name: np.ndim(x) for name, x in ours.updates.items()})

    def card(self, name: str) -> list[list[str]]:
        """The grids of an array, added where they are new: value, gradient and update of each head; none if absent."""
        heads = [f"/{h}" for h in self._axes.heads] if name.rpartition("/")[2] in BY_HEAD and "/attention/" in name else [""]
        found = [[self._add(side, name, head) for side in SIDES] for head in heads]
        return [grids for column in found if (grids := [grid for grid in column if grid])]

    def _add(self, side: str, name: str, head: str) -> str | None:
        """The id of one grid; None where the model has no such array."""
        ours, twin = (getattr(trace, f"{side}s").get(name) for trace in (self._ours, self._twin))
        if ours is None:
            return None
        grid = f"{side}:{name}{head}"
        if grid not in self.grids:
            twin = np.full(np.shape(ours), np.nan) if twin is None else twin
            rows, columns = SHAPES[inside(name)]
            index = np.ix_(self._take(rows), self._take(columns))
            at = sum(map(np.size, self._numbers))
            for numbers, x in ((self._numbers, ours), (self._twins, twin)):
                numbers.append(_as_grid(x[int(head[1:])] if head else x, rows)[index])
            made = self._made.get(grid, {"do": "given", "says": "a parameter of the model"})
            self.grids[grid] = {"title": titled(name, head), "side": side, "rows": rows, "columns": columns, "at": at, "made": made}
        return grid

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
    plain = usual.get(words) or words.removeprefix("attention/").removeprefix("mlp/").replace("_", " ").replace("/", " ")
    return plain + (f", head {head[1:]}" if head else "")


def _words(*labels: str) -> Axis:
    return Axis([*range(len(labels))], len(labels), [*labels])


def _as_grid(x: np.ndarray, rows: str) -> np.ndarray:
    """One row of a vector, or one column where each row has a number."""
    x = np.asarray(x)
    return x if x.ndim == 2 else x.reshape(1, -1) if rows == "1" else x.reshape(-1, 1)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([part.ravel() for part in parts])


def page_data(
    config: GPTConfig, axes: Axes, rule: OptimizerConfig, ours: Trace, twin: Trace, pairs: tuple[list[int], list[int]]
) -> dict[str, Any]:  # fmt: skip
    """All that the page shows, as JSON."""
    ours, twin = (_completed(trace, rule, pairs) for trace in (ours, twin))
    sheet = Sheet(config, axes, rule, ours, twin)
    shown = [_station(sheet, station) for station in stations(config, axes.blocks)]
    shown = [station for station in shown if station["makes"]]
    return {"stations": shown, "axes": sheet.axes(), "grids": sheet.grids, **sheet.numbers()}


def _station(sheet: Sheet, station: Station) -> dict[str, Any]:
    group = "" if "/" not in station.key else station.key.split("/")[0].replace("block_", "Block ")
    cards = {
        part: [grids for name in getattr(station, part) for grids in sheet.card(name)]
        for part in ("reads", "parameters", "makes")
    }
    return {"key": station.key, "piece": station.piece, "title": station.title, "says": station.says, "group": group} | cards


def _completed(trace: Trace, rule: OptimizerConfig, pairs: tuple[list[int], list[int]]) -> Trace:
    """With the numbers that follow from those of the model: ids, mean loss, clipping, and the choice of a next token."""
    norms = np.array([np.sqrt((np.asarray(trace.gradients[name]) ** 2).sum()) for name in trace.updates])
    norm = np.sqrt((norms**2).sum())
    scaled = trace.values["logits"][-1] / 0.8
    odds = np.exp(scaled - scaled.max())
    more: Named = {
        "pairs": np.array(pairs, float).T, "loss": np.asarray(trace.values["losses"].mean()), "step/norms": norms,
        "step/norm": norm, "step/clip": np.asarray(min(1.0, rule.clip_norm / max(norm, 1e-30))), "sampling/scaled": scaled,
        "sampling": odds / odds.sum(),
    }  # fmt: skip
    return trace._replace(values=trace.values | more)
