"""The tables, sentences and figures of `jaxllm runs`."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from jaxllm.utils.errors import printable

from ..runs.compared import Compared, Group, same_text
from ..runs.summary import RunSummary
from ..runs.verdict import APART, MOST_SEEDS, Verdict

LONGEST = 24  # characters of a field's value


def run_lines(compared: Compared) -> list[str]:
    """A table with a row for each run."""
    number = {run.path: str(i) for i, group in enumerate(compared.groups, start=1) for run in group.runs}
    head = ["run", "group", *compared.fields, "steps", "tokens", "val_loss", "best", "seconds", "FLOPs"]
    return aligned([head, *([*_names(run, number, compared), *_reached(run)] for run in compared.runs)])


def _names(run: RunSummary, number: dict[Path, str], compared: Compared) -> list[str]:
    """What a run is."""
    return [printable(str(run.path)), number[run.path], *(written(run.fields[name]) for name in compared.fields)]


def _reached(run: RunSummary) -> list[str]:
    """What it has reached, and what that cost."""
    tokens, seconds, flops = f"{run.tokens(run.step):,}", f"{run.seconds:,.1f}", run.flops(run.step)
    return [
        run.progress,
        tokens,
        _loss(run.last_loss),
        _loss(run.best_loss),
        seconds,
        "-" if flops is None else f"{flops:.2e}",
    ]


def group_lines(compared: Compared) -> list[str]:
    """A table with a row for each group: mean and standard deviation of the loss at the last step over the seeds."""
    rows = [["group", "seeds", "mean", "sd"]]
    for number, group in enumerate(compared.groups, start=1):
        losses = [*group.losses.values()]
        average, spread = mean(losses) if losses else None, stdev(losses) if len(losses) > 1 else None
        rows.append([group_label(number, group), str(len(losses)), _loss(average), _loss(spread)])
    return aligned(rows)


def verdict_lines(compared: Compared) -> list[str]:
    """A sentence for each group after the first; none for a single group, one if no group has two seeds."""
    baseline, *others = compared.groups
    if not others:
        return []
    if all(len(group.losses) < 2 for group in compared.groups):
        return ["no verdict: one seed does not show the spread of the losses; train each group with several train.seed"]
    tested = sum(verdict is not None for verdict in compared.verdicts)
    adjustment = f"; p by Holm's adjustment for {tested} comparisons" if tested > 1 else ""
    lines = [f"against group 1, mean loss at the last step in nats per token{adjustment}"]
    for number, (group, verdict) in enumerate(zip(others, compared.verdicts, strict=True), start=2):
        lines.append(f"{number}  {_sentence(verdict) if verdict else _why_not(group, baseline)}")
    if any(verdict and verdict.word == APART for verdict in compared.verdicts):
        lines.append("needed: the fewest seeds for 80 % power, if effect and spread are as observed")
    return lines


def _sentence(verdict: Verdict) -> str:
    n, m = verdict.counts
    seeds = f"{n} seeds in pairs" if verdict.seeds else f"{n} and {m} seeds, not in pairs"
    effect, low, high = (f"{value:+.4f}" for value in (verdict.effect, verdict.low, verdict.high))
    found = f"{effect}, 95 % interval {low} to {high}, p = {verdict.adjusted_p:.2g}: {verdict.word} by {seeds}"
    if verdict.word != APART:
        return found
    needed = f"more than {MOST_SEEDS:,}" if verdict.needed is None else f"about {verdict.needed:,}"
    return f"{found}; {needed} would be needed"


def _why_not(group: Group, baseline: Group) -> str:
    if not same_text(group, baseline):
        return "no verdict: data or tokenizer differ, so the losses are of other tokens"
    return (
        f"no verdict: {len(group.losses)} finished seeds, and {len(baseline.losses)} of group 1; a test needs two each"
    )


def group_label(number: int, group: Group) -> str:
    """The number of a group, its values of the fields in which groups differ, and its loss if that is an average's."""
    values = [f"{name}={written(value)}" for name, value in group.values.items()]
    return "  ".join([str(number), *values, *([] if group.loss_name == "val_loss" else [f"({group.loss_name})"])])


def written(value: Any) -> str:
    """A field's value, on one line and not long."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return printable(str(value), LONGEST)


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{'>' if i else '<'}{width}}" for i, (cell, width) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def figures(compared: Compared) -> dict[str, Any]:
    """All of it, as it is written as JSON."""
    return {
        "runs": [
            {
                "run": str(run.path), "config": {name: run.fields[name] for name in compared.fields}, "step": run.step,
                "tokens": run.tokens(run.step), "loss": run.loss_name, "val_loss": run.last_loss,
                "best_val_loss": run.best_loss,
                "seconds": run.seconds, "flops": run.flops(run.step), "finished": not run.unfinished,
            }
            for run in compared.runs
        ],
        "groups": [
            {
                "config": dict(group.values), "loss": group.loss_name,
                "losses": {str(seed): loss for seed, loss in group.losses.items()},
            }
            for group in compared.groups
        ],
        "verdicts": [verdict and asdict(verdict) | {"verdict": verdict.word} for verdict in compared.verdicts],
    }  # fmt: skip
