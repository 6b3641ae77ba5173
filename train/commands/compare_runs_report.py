"""What `jaxllm compare A B` prints and writes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.compare.measure import Comparison
from jaxllm.compare.pairs import PARAMETERS
from jaxllm.compare.report import Report, bound_text, fold, table

from ..runs.parting import Apart, Parting
from .runs_report import aligned, written


@dataclass(frozen=True)
class Weights:
    """What the parameters of two runs have in common."""

    rows: Sequence[Comparison] = ()  # parameters, then values on the same text
    same_tokenizer: bool = True
    bits_per_byte: Sequence[float | None] | None = None  # on the same text, of runs with different tokenizers


@dataclass(frozen=True)
class TwoRuns:
    """Two runs, and all in which they were compared."""

    names: Sequence[str]
    steps: Sequence[int | None]
    fields: Sequence[tuple[str, object, object]]  # of the configs, and versions, that differ
    weights: Weights
    dtype: str
    tolerance: float
    parting: Parting | None  # None where the metrics were not compared
    saved: Sequence[int]  # the steps that both have saved
    notes: Sequence[str]  # what was left out, and which steps were chosen

    @property
    def agree(self) -> bool:
        """Whether all that was compared agrees, and both have the same parameters and tokenizer."""
        weights = self.weights.same_tokenizer and all(row.passed for row in self.weights.rows)
        return weights and (self.parting is None or self.parting.step is None)

    @property
    def stages(self) -> tuple[list[Comparison], list[Comparison]]:
        """The rows of parameters, and those of values on the same text."""
        rows = self.weights.rows
        return [row for row in rows if row.stage == PARAMETERS], [row for row in rows if row.stage != PARAMETERS]


def lines(compared: TwoRuns) -> list[str]:
    """The report: what differs, the tables, where the metrics part, and a summary."""
    both = [
        name + (f", step {step:,}" if step is not None else "")
        for name, step in zip(compared.names, compared.steps, strict=True)
    ]
    out = [f"{both[0]}, and {both[1]}; errors relative to the largest value of each tensor of the first"]
    out += compared.notes
    if compared.fields:
        fields = [[name, written(ours), written(theirs)] for name, ours, theirs in compared.fields]
        out += ["", *aligned([["differs", *compared.names], *fields])]
    elif compared.parting is not None:
        out.append("the configs agree, and so do the versions that wrote the checkpoints")
    parameters, values = compared.stages
    if parameters:
        out += ["", *table([*fold(parameters), *values])]
    if compared.weights.bits_per_byte is not None:
        ours, theirs = ("not defined" if bits is None else f"{bits:.4f}" for bits in compared.weights.bits_per_byte)
        out += ["", f"bits per byte of the same text, which the tokenizers cut differently: {ours} and {theirs}"]
    if compared.parting is not None:
        out += ["", *metrics_lines(compared.parting, compared)]
    return [*out, "", summary(compared)]


def metrics_lines(parting: Parting, compared: TwoRuns) -> list[str]:
    """What the two metrics.jsonl have in common, and the first step at which they differ."""
    more = [f"{name} has {count - parting.n_common:,} more" for name, count in
            zip(compared.names, parting.counts, strict=True) if count > parting.n_common]  # fmt: skip
    head = f"metrics.jsonl: {parting.n_common:,} steps in both" + "".join(f"; {one}" for one in more)
    if parting.step is None:
        return [f"{head}; they agree"]
    fields = aligned([[f"  {one.name}", *map(_number, one.values), f"off by {one.off:.1e}"] for one in parting.apart])
    out = [f"{head}; they part at step {parting.step:,}", *fields]
    if parting.equal:
        out.append(f"  equal there: {', '.join(parting.equal)}")
    if parting.later:
        step, worst = parting.later
        ours, theirs = map(_number, worst.values)
        out.append(f"  train_loss is furthest apart at step {step:,}: {ours} and {theirs}")
    if parting.meaning:
        out.append(f"  {parting.meaning}" + ("; or it is what differs above" if compared.fields else ""))
    before = [step for step in compared.saved if step < parting.step]
    if before and before[-1] not in compared.steps:
        first, second = (f"{name}:{before[-1]}" for name in compared.names)
        out.append(f"  both have saved step {before[-1]:,} before: jaxllm compare {first} {second}")
    return out


def summary(compared: TwoRuns) -> str:
    """One sentence: in what they agree, or in what they part."""
    parts, same = [], []
    for what, rows in zip(("parameters", "values on the same text"), compared.stages, strict=True):
        beyond = sum(not row.passed for row in rows)
        if beyond:
            parts.append(f"{beyond} of {len(rows)} {what}")
        elif rows:
            same.append(f"{len(rows)} {what}")
    if not compared.weights.same_tokenizer:
        parts.append("tokenizers")
    if (parting := compared.parting) is not None:
        agree = parting.step is None
        (same if agree else parts).append(
            f"{parting.n_common:,} steps of metrics" if agree else f"metrics from step {parting.step:,} on"
        )
    if parts:
        return f"they part: {', '.join(parts)}" + (f"; equal are {', '.join(same)}" if same else "")
    within = "to the bit" if not compared.tolerance else f"within {bound_text(compared.tolerance)}"
    return f"they agree {within}: {', '.join(same)}"


def as_dict(compared: TwoRuns) -> dict[str, Any]:
    """All of it for JSON; a difference from what is no number is null."""
    parting = compared.parting
    return {
        "runs": list(compared.names), "steps": list(compared.steps), "agree": compared.agree,
        "notes": list(compared.notes), "same_tokenizer": compared.weights.same_tokenizer,
        "bits_per_byte": compared.weights.bits_per_byte and list(map(_finite, compared.weights.bits_per_byte)),
        "differs": {name: [ours, theirs] for name, ours, theirs in compared.fields},
        "rows": Report(compared.dtype, tuple(compared.weights.rows)).as_dict()["rows"],
        "metrics": parting and {
            "steps": list(parting.counts), "common": parting.n_common, "part_at": parting.step,
            "fields": {one.name: _values(one) for one in parting.apart}, "equal": list(parting.equal),
            "furthest": parting.later and {"step": parting.later[0], "train_loss": _values(parting.later[1])},
        },
    }  # fmt: skip


def _values(one: Apart) -> dict[str, Any]:
    return {"values": list(one.values), "off": _finite(one.off)}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: Any) -> str:
    """A number with the digits of float32, so that two that differ look different."""
    return f"{value:.9g}" if isinstance(value, float) else written(value)
