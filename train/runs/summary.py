"""A run in short: its config, where its validation loss went, and what it cost. And where runs are found."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxllm.flops import flops_per_token
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import is_reference

from ..budget import is_over, used_s
from ..config import RunConfig, tokens_of_step
from ..config_file import as_dict
from ..errors import DamagedError
from ..notes import print_note
from ..sweep import names_in_order
from ..tune.partition import partition_of
from .checkpoint import saved_steps
from .folder import RunFolder
from .manifest import read_manifest
from .metrics import Record, read_metrics

AVERAGED = "averaged_val_loss"


@dataclass(frozen=True)
class RunSummary:
    """A run, by its config and its metrics."""

    path: Path
    config: RunConfig
    last: Record | None  # None before the first step
    evaluated: Mapping[int, Record]  # the records that have a validation loss, by step
    flops_per_token: float | None  # None where functions of the user's decide it, and nothing that was saved shows it

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The config as {"section.key": value}."""
        return {f"{section}.{key}": value for section, of in as_dict(self.config).items() for key, value in of.items()}

    @property
    def seed(self) -> int:
        """Of the initialisation and the order of the data."""
        return self.config.train.seed

    @property
    def step(self) -> int:
        """The last step that is recorded; 0 before the first."""
        return int(self.last["step"]) if self.last else 0

    @property
    def seconds(self) -> float:
        """How long the run has taken."""
        return float(self.last["elapsed_s"]) if self.last else 0.0

    @cached_property
    def loss_name(self) -> str:
        """Which loss counts: that of the weights that generate, if these are not the trained parameters."""
        averaged = self.evaluated and all(AVERAGED in record for record in self.evaluated.values())
        return AVERAGED if averaged else "val_loss"

    def loss(self, step: int) -> float:
        """The validation loss that counts, at a step that was evaluated."""
        return float(self.evaluated[step][self.loss_name])

    @property
    def best_loss(self) -> float | None:
        """The lowest validation loss; None before the first."""
        return min(map(self.loss, self.evaluated), default=None)

    @property
    def last_loss(self) -> float | None:
        """The newest validation loss; None before the first."""
        return self.loss(max(self.evaluated)) if self.evaluated else None

    @property
    def progress(self) -> str:
        """The steps it has, and of how many if there are more to come."""
        return f"{self.step:,}" if self.is_over else f"{self.step:,} of {self.config.train.steps:,}"

    @property
    def is_over(self) -> bool:
        """Whether it has all its steps, or its time."""
        return is_over(self.config.train, self.step, used_s([self.last] if self.last else []))

    @property
    def unfinished(self) -> str | None:
        """Why its loss is not that of a whole run; None if it is."""
        if not self.is_over:
            return f"has {self.progress} steps"
        return None if self.step in self.evaluated else "has no validation loss at its last step"

    def tokens(self, step: int) -> int:
        """The tokens of so many steps."""
        return step * tokens_of_step(self.config, self.config.model)

    def flops(self, step: int) -> float | None:
        """The operations of so many steps, if they are known."""
        return None if self.flops_per_token is None else self.tokens(step) * self.flops_per_token


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The run folders among these folders and directly below them, each once.

    Below a folder those of a sweep stand in the order of its command, all others behind them by name. Raises InputError
    for a folder that neither is a run nor holds one.
    """
    found: dict[Path, Path] = {}
    for folder in folders:
        runs = [*_runs_at(RunFolder(folder).path)]
        if not runs:
            raise InputError(f"{folder} holds no run: neither it nor a folder directly in it has a config.toml.")
        for path in runs:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _runs_at(path: Path) -> Iterator[Path]:
    try:
        place = {name: i for i, name in enumerate(names_in_order(path))}
        below = sorted(path.iterdir(), key=lambda one: (place.get(one.name, len(place)), one))
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}.") from None
    yield from (one for one in (path, *below) if os.path.lexists(one / "config.toml"))


def read_runs(folders: Iterable[Path]) -> list[RunSummary]:
    """Config and metrics of run folders. Imported models, which have no steps of their own, are left out with a note.

    Raises InputError for a damaged file, which it names, and if no run is left.
    """
    runs, imported = [], []
    for path in folders:
        folder = RunFolder(path)
        if folder.weights.exists():
            imported.append(path)
            continue
        runs.append(_read(folder))
    if imported and not runs:
        raise InputError(f"{imported[0]} was imported and has no steps to compare; name a run that was trained.")
    for path in imported:
        print_note(f"{path} was imported and has no steps to compare: left out")
    return runs


def _read(folder: RunFolder) -> RunSummary:
    try:
        config, records = folder.read_config(), read_metrics(folder.metrics)
    except InputError as error:
        raise InputError(f"the run {folder.path} cannot be read: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {error.strerror}.") from None
    evaluated = {record["step"]: record for record in records if "val_loss" in record}
    return RunSummary(
        folder.path, config, records[-1] if records else None, evaluated, _flops_per_token(folder, config)
    )


def _flops_per_token(folder: RunFolder, config: RunConfig) -> float | None:
    """By `jaxllm.flops`. No code is run: whether a user's activation has a gate is seen from the saved parameters."""
    model = config.model
    if model.block is not None or partition_of(config):
        return None
    if is_reference(model.activation):
        saved = saved_steps(folder.checkpoints)
        try:
            arrays = read_manifest(folder.checkpoints / str(saved[-1])).arrays if saved else {}
        except DamagedError:
            return None
        if not arrays:
            return None
        model = replace(model, activation="swiglu" if any("/mlp/gate/" in name for name in arrays) else "relu")
    return flops_per_token(model)
