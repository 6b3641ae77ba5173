"""Runs side by side: in which fields of the config they differ, groups of them, and verdicts on the groups.

Runs that differ only in their seed, and in what does not change the loss, are a group. What a group reached is the loss
at its last step over its seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .summary import RunSummary, read_runs
from .verdict import Verdict, judge

SEED = "train.seed"
# What a loss is measured on.
OF_THE_TEXT = ("data.source", "data.field", "data.sha256", "data.characters", "tokenizer.")

# What does not change the loss at the last step.
WITHOUT_EFFECT = (
    "checkpoint.", "train.sink", "train.products", "train.max_skipped",
    "eval.every", "eval.sample_tokens", "eval.prompt", "eval.temperature",
)  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed and in what has no effect; `values` are its fields in which groups differ."""

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
    def loss_name(self) -> str:
        """Which loss counts, of all its runs that have one."""
        return next((run.loss_name for run in self.runs if run.evaluated), "val_loss")

    @property
    def losses(self) -> dict[int, float]:
        """The validation loss at the last step, by seed."""
        return {run.seed: run.loss(run.step) for run in self.finished}


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


def differing(runs: Sequence[RunSummary]) -> list[str]:
    """The names of the fields in which the configs differ.

    Not the path of a text that is the same, nor the sum of the user's file if all that have one have the same.
    """
    names = [name for name in runs[0].fields if any(run.fields[name] != runs[0].fields[name] for run in runs)]
    same_text = runs[0].config.data.sha256 is not None and "data.sha256" not in names
    same_code = len({run.config.train.code_sha256 for run in runs} - {None}) < 2
    left_out = [name for name, same in (("data.source", same_text), ("train.code_sha256", same_code)) if same]
    return [name for name in names if name not in left_out]


def group_runs(runs: Sequence[RunSummary]) -> list[Group]:
    """The groups, in the order of their first runs."""
    names = [name for name in differing(runs) if name != SEED and not name.startswith(WITHOUT_EFFECT)]
    groups: dict[str, Group] = {}
    for run in runs:
        values = {name: run.fields[name] for name in names}
        before = groups.get(repr(values))
        groups[repr(values)] = Group(values, [*(before.runs if before else ()), run])
    return list(groups.values())


def same_text(group: Group, other: Group) -> bool:
    """Whether the losses of both are of the same tokens."""
    return all(group.values[name] == other.values[name] for name in group.values if name.startswith(OF_THE_TEXT))
