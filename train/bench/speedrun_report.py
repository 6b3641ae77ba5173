"""The figures of `jaxllm bench speedrun`, and their table."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import jax
import numpy as np

from jaxllm import __version__
from jaxllm.gpt import count_parameters
from jaxllm.utils.ideas import with_names

from .alternate import Program
from .machine import processor, versions_lines
from .speedrun_nanogpt import ALL_CHECKPOINTS, RECIPE, SEED
from .speedrun_ours import OurRecipe, OurRun
from .statistics import Figures
from .whole_run import WholeRun


@dataclass(frozen=True)
class Round:
    """The runs of a round; without another side only ours to the loss."""

    ours: OurRun
    peer: WholeRun | None = None
    versions: Mapping[str, str] = field(default_factory=dict)  # the peer's
    within: OurRun | None = None  # ours for the peer's time

    @property
    def over_s(self) -> float:
        """Seconds by which ours for the peer's time took longer than the peer; 0 if it did not."""
        return max(self.within.seconds - self.peer.seconds, 0.0) if self.within and self.peer else 0.0


def headline(recipes: Sequence[OurRecipe], peer: Program | None) -> list[str]:
    """What is run and where, as far as it is known in advance."""
    lines = [f"{one.config}: {_described(one)}" for one in recipes]
    if peer:
        lines += [
            f"{peer.name}: train.py {' '.join(RECIPE)} {ALL_CHECKPOINTS}",
            f"{peer.name} has the seed {SEED} in every round; jaxllm the number of the round",
        ]
    return [*lines, f"{processor()}, {os.cpu_count()} cores, {platform.system()}; {datetime.now():%Y-%m-%d}"]


def _described(recipe: OurRecipe) -> str:
    m, t = recipe.prepared.model, recipe.prepared.config.train
    return (
        f"{m.n_layers} layers, {m.n_heads} heads, {m.d_model} wide, {m.vocab_size:,} ids, "
        f"{count_parameters(m):,} parameters, {t.batch_size} x {m.context_length} tokens a step, {t.dtype}"
    )


def round_line(one: Round, loss: float) -> str:
    """What a round has shown."""
    to_loss = one.ours.seconds_to(loss)
    reached = f"never {loss:g}, lowest {one.ours.lowest:.4f}" if to_loss is None else f"{loss:g} after {to_loss:.1f} s"
    line = f"jaxllm {reached}, {one.ours.loss:.4f} at the end, {one.ours.seconds:.1f} s"
    if one.peer is None or one.within is None:
        return line
    return (
        f"{line}; nanogpt {one.peer.loss:.4f} after {one.peer.seconds:.1f} s, "
        f"jaxllm then {one.within.loss:.4f} ({one.within.seconds:.1f} s{', which is longer' if one.over_s else ''})"
    )


def make_figures(recipes: Sequence[OurRecipe], peer: Program | None, rounds: Sequence[Round], loss: float) -> Figures:
    """All figures; `peer`, `ours_within` and the ratio are None if ours ran alone, the ratio also if ours missed."""
    ours, theirs = [one.ours for one in rounds], [one.peer for one in rounds if one.peer]
    within = [one.within for one in rounds if one.within]
    taken = [one.seconds_to(loss) for one in ours]
    ratios = [s and s / other.seconds for s, other in zip(taken, theirs, strict=True)] if peer else [None]
    ratio = _middle(ratios)
    text = recipes[0].prepared.config.data
    return {
        "against": peer.name if peer else None,
        "loss": loss,
        "ratio": ratio and ratio["median"],
        "ratio_spread": ratio and [ratio["low"], ratio["high"]],
        "ours": _side(ours, loss),
        "ours_within": _side(within, loss) | {"over_s": [one.over_s for one in rounds]} if within else None,
        "peer": _side(theirs, loss) | {"recipe": [*RECIPE, ALL_CHECKPOINTS], "seed": SEED} if peer else None,
        "sizes": {
            "rounds": len(rounds), "characters": text.characters, "sha256": text.sha256,
            "models": [
                {"config": one.config, "parameters": count_parameters(one.prepared.model)}
                | with_names(asdict(one.prepared.model))
                | {key: getattr(one.prepared.config.train, key) for key in ("batch_size", "dtype", "steps")}
                for one in recipes
            ],
        },
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.system(), "device": "cpu",
        },
        "versions": {
            "jaxllm": __version__, "python": platform.python_version(), "jax": jax.__version__,
            "numpy": np.__version__, "products": ours[0].products,
        } | ({peer.name: dict(rounds[0].versions)} if peer else {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _middle(values: Sequence[float | None]) -> dict[str, float] | None:
    """Median, lowest and highest; None if one of the values is."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return {"median": float(np.median(known)), "low": min(known), "high": max(known)}


def _side(runs: Sequence[WholeRun], loss: float) -> Figures:
    """The figures of one side, over its runs of all rounds."""
    return {
        "seconds_to_loss": _middle([run.seconds_to(loss) for run in runs]),  # None unless all reach it
        "seconds": _middle([run.seconds for run in runs]),
        "last_loss": _middle([run.loss for run in runs]),
        "runs": [asdict(run) | {"seconds_to_loss": run.seconds_to(loss)} for run in runs],
    }


def table(figures: Figures) -> list[str]:
    """The figures of ours and the peer side by side, then their ratio and the versions."""
    against, within = figures["against"], figures["ours_within"]
    sides = [figures["ours"], figures["peer"]] if against else [figures["ours"]]
    rows: list[tuple[str, list[str]]] = [("", ["jaxllm", against][: len(sides)])]
    rows += [(label, [write(side) for side in sides]) for label, write in _rows(figures["loss"])]
    if within:
        rows.append((f"in {against}'s time: seconds", [_spread(within["seconds"], ".1f")]))
        if longest := max(within["over_s"]):
            rows.append((f"  longer than {against}'s, by up to", [f"{longest:.1f}"]))
        rows.append((f"in {against}'s time: loss at the end", [_spread(within["last_loss"], ".4f")]))
    lines = [f"{label:<36}" + "".join(f"{cell:>28}" for cell in cells) for label, cells in rows]
    if figures["ratio"]:
        low, high = figures["ratio_spread"]
        lines.append(
            f"jaxllm reaches {figures['loss']:g} in {figures['ratio']:.3f} of {against}'s whole run ({low:.3f} to "
            f"{high:.3f} over {figures['sizes']['rounds']} rounds)"
        )
    return lines + versions_lines(figures)


def _rows(loss: float) -> list[tuple[str, Callable[[Figures], str]]]:
    """Labels, and functions that write the figure of a side."""
    return [
        (f"seconds to a loss of {loss:g}", lambda side: _spread(side["seconds_to_loss"], ".1f")),
        ("seconds of the whole run", lambda side: _spread(side["seconds"], ".1f")),
        ("loss at its end", lambda side: _spread(side["last_loss"], ".4f")),
    ]


def _spread(values: dict[str, Any] | None, form: str) -> str:
    if values is None:
        return "not reached"
    middle = f"{values['median']:{form}}"
    return f"{middle} ({values['low']:{form}} to {values['high']:{form}})" if values["low"] < values["high"] else middle
