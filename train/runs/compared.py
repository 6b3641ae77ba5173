"""Runs side by side: their folders, their losses and what they cost, and in which fields of the config they differ.

Runs that differ only in their seed are a group. What a group reached is the loss at its last step over its seeds.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxllm.flops import flops_per_token
from jaxllm.utils.errors import InputError

from ..config import RunConfig
from ..notes import print_note
from .folder import RunFolder
from .metrics import Record, read_metrics
from .verdict import Verdict, judge

SEED = "train.seed"
# What a loss is measured on.
OF_THE_TEXT = ("data.source", "data.field", "data.sha256", "data.characters", "tokenizer.")


@dataclass(frozen=True)
class RunSummary:
    """A run, by its config and its metrics."""

    path: Path
    config: RunConfig
    last: Record | None  # None before the first step
    evaluated: Mapping[int, Record]  # the records that have a validation loss, by step

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The config as {"section.key": value}."""
        return {f"{section}.{key}": value for section, of in asdict(self.config).items() for key, value in of.items()}

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

    @property
    def best_loss(self) -> float | None:
        """The lowest validation loss; None before the first."""
        return min((record["val_loss"] for record in self.evaluated.values()), default=None)

    @property
    def last_loss(self) -> float | None:
        """The newest validation loss; None before the first."""
        return self.evaluated[max(self.evaluated)]["val_loss"] if self.evaluated else None

    @property
    def progress(self) -> str:
        """The steps it has, and of how many if there are more to come."""
        steps = self.config.train.steps
        return f"{self.step:,}" if self.step >= steps else f"{self.step:,} of {steps:,}"

    @property
    def unfinished(self) -> str | None:
        """Why its loss is not that of a whole run; None if it is."""
        if self.step < self.config.train.steps:
            return f"has {self.progress} steps"
        return None if self.step in self.evaluated else "has no validation loss at its last step"

    def tokens(self, step: int) -> int:
        """The tokens of so many steps."""
        return step * self.config.train.batch_size * self.config.model.context_length

    def flops(self, step: int) -> float:
        """The operations of so many steps, by `jaxllm.flops`."""
        return self.tokens(step) * flops_per_token(self.config.model)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed; `values` are its fields in which groups differ."""

    values: Mapping[str, Any]
    runs: Sequence[RunSummary]

    @property
    def finished(self) -> list[RunSummary]:
        """Those that have a loss at their last step, one for each seed, by seed."""
        first: dict[int, RunSummary] = {}
        for run in self.runs:
            if not run.unfinished:
                first.setdefault(run.seed, run)
        return [first[seed] for seed in sorted(first)]

    @property
    def repeated(self) -> list[tuple[RunSummary, RunSummary]]:
        """The finished run of a seed, with each further one of that seed, which does not count."""
        counted = {run.seed: run for run in self.finished}
        return [(counted[run.seed], run) for run in self.runs if not run.unfinished and run is not counted[run.seed]]

    @property
    def losses(self) -> dict[int, float]:
        """The validation loss at the last step, by seed."""
        return {run.seed: run.evaluated[run.step]["val_loss"] for run in self.finished}


@dataclass(frozen=True)
class Compared:
    """Runs, the fields in which they differ, their groups, and a verdict on each group but the first, the baseline."""

    runs: Sequence[RunSummary]
    fields: Sequence[str]
    groups: Sequence[Group]
    verdicts: Sequence[Verdict | None]  # None: too few seeds, or losses of another text


def compare_runs(folders: Iterable[Path]) -> Compared:
    """The comparison of run folders. Raises InputError for one that cannot be read."""
    runs = read_runs(folders)
    groups = group_runs(runs)
    baseline, *others = groups
    losses = [group.losses if same_text(group, baseline) else {} for group in others]
    return Compared(runs, differing(runs), groups, judge(losses, baseline.losses))


def find_runs(folders: Iterable[str | Path]) -> list[Path]:
    """The run folders among these folders and directly below them, each once, sorted below a folder.

    Raises InputError for a folder that neither is a run nor holds one.
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
        below = sorted(path.iterdir())
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
    return RunSummary(folder.path, config, records[-1] if records else None, evaluated)


def differing(runs: Sequence[RunSummary]) -> list[str]:
    """The names of the fields in which the configs differ; not the path of a text that is the same."""
    names = [name for name in runs[0].fields if any(run.fields[name] != runs[0].fields[name] for run in runs)]
    same_text = runs[0].config.data.sha256 is not None and "data.sha256" not in names
    return [name for name in names if not (same_text and name == "data.source")]


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """The groups, in the order of their first runs."""
    names = [name for name in differing(runs) if name != SEED]
    groups: dict[str, Group] = {}
    for run in runs:
        values = {name: run.fields[name] for name in names}
        before = groups.get(repr(values))
        groups[repr(values)] = Group(values, [*(before.runs if before else ()), run])
    return list(groups.values())


def same_text(group: Group, other: Group) -> bool:
    """Whether the losses of both are of the same tokens."""
    return all(group.values[name] == other.values[name] for name in group.values if name.startswith(OF_THE_TEXT))
