"""The figures of `jaxllm bench generate`, and their table."""

import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np

from jaxllm.compare.report import bound_text, error_text

from .alternate import Program
from .generate_recording import GenerateRecording
from .machine import processor, versions_lines
from .sides import Other, commits
from .statistics import Figures, Spread, speed_ratio

# Of logits of about unit size, by the type of the weights. If a choice between two tokens is closer, either is right.
TOLERANCE = {"float32": 1e-3, "bfloat16": 2e-2, "int8": 2e-2}


def make_figures(
    job: dict[str, Any], recordings: list[GenerateRecording], bandwidths: list[float], compared: Figures | None,
    other: Other | None,
) -> Figures:  # fmt: skip
    """All figures; `peer` and the comparisons with it are None if ours ran alone."""
    first, peer = recordings[0], recordings[-1]
    bytes_per_s = float(np.median(bandwidths))
    program = isinstance(other, Program)  # which reads float32; a commit says what it reads
    read = (first.begun["weight_bytes"], first.begun["float32_weight_bytes"] if program else peer.begun["weight_bytes"])
    sides = [_side(job, one, n, bytes_per_s) for one, n in zip(recordings, read, strict=False)]
    ratio = speed_ratio(first.timed("seconds"), peer.timed("seconds")) if other else None
    return commits(other) | {
        "against": other.name if other else None,
        "ratio": ratio and ratio.median,
        "ratio_spread": ratio and [ratio.low, ratio.high],
        "compared": compared,
        "tolerance": TOLERANCE[job["weights"]] if compared else None,
        "ours": sides[0],
        "peer": sides[1] if other else None,
        "sizes": job["model"] | {
            "parameters": first.begun["n_parameters"], "weights": job["weights"], "batch_size": job["batch_size"],
            "prompt_tokens": job["prompt_tokens"], "new_tokens": job["new_tokens"], "rounds": len(first.turns),
            "texts": sum(map(len, first.timed("seconds"))),
        },
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.system(),
            "device": first.begun["device"], "bytes_per_s": bytes_per_s, "round_bytes_per_s": bandwidths,
        },
        "versions": first.begun["versions"] | ({other.name: peer.begun["versions"]} if other else {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _side(job: dict[str, Any], recording: GenerateRecording, weight_bytes: int, bytes_per_s: float) -> Figures:
    """The figures of one side, over all texts of all rounds."""
    whole, first = ([s for turn in recording.timed(name) for s in turn] for name in ("seconds", "first_s"))
    n = job["batch_size"] * job["new_tokens"]
    token = Spread.of([(w - f) / (job["new_tokens"] - 1) for w, f in zip(whole, first, strict=True)])
    return {
        "tokens_per_s": n / Spread.of(whole).median,
        "round_tokens_per_s": [n / float(np.median(turn)) for turn in recording.timed("seconds")],
        "first_token_ms": 1e3 * Spread.of(first).median,
        "token_ms": 1e3 * token.median,
        "spread": [1e3 * token.low, 1e3 * token.high],
        "weight_bytes": weight_bytes,
        "memory_traffic": weight_bytes / token.median / bytes_per_s,
        "first_text_s": recording.begun["first_text_s"],
        "peak_bytes": recording.ended["peak_bytes"],
    }


def same_tokens(figures: Figures) -> bool:
    """Whether both began from the same logits and wrote the same tokens up to a near-tie.

    True if ours ran alone or has other weights.
    """
    compared = figures["compared"]
    return compared is None or all(
        difference <= figures["tolerance"]
        for difference in (compared["logits_difference"], *(part["gap"] for part in compared["parted"]))
    )


def headline(jobs: list[dict[str, Any]]) -> list[str]:
    """What is timed and where; the jobs differ in their lengths only."""
    m = jobs[0]["model"]
    texts, new, prompts = (
        ", ".join(dict.fromkeys(str(job[name]) for job in jobs))
        for name in ("batch_size", "new_tokens", "prompt_tokens")
    )
    return [
        f"{m['n_layers']} layers, {m['n_heads']} heads, {m['d_model']} wide, {m['vocab_size']:,} ids, random weights "
        f"in {jobs[0]['weights']}",
        f"{texts} x {new} tokens after prompts of {prompts}; {processor()}, "
        f"{os.cpu_count()} cores, {platform.system()}; {datetime.now():%Y-%m-%d}",
    ]


def table(figures: Figures) -> list[str]:
    """The figures of ours and the peer side by side, their ratio, whether they wrote the same, and the versions."""
    sides = [("jaxllm", figures["ours"])] + ([(figures["against"], figures["peer"])] if figures["peer"] else [])
    rows = [("", [name for name, _ in sides])]
    rows += [(label, [write(side) for _, side in sides]) for label, write in _rows(figures)]
    lines = [f"{label:<36}" + "".join(f"{cell:>28}" for cell in cells) for label, cells in rows]
    if figures["peer"]:
        low, high = figures["ratio_spread"]
        lines.append(
            f"jaxllm is {figures['ratio']:.3f} times as fast as {figures['against']} ({low:.3f} to {high:.3f} over "
            f"{figures['sizes']['rounds']} rounds)"
        )
        lines += _comparison(figures)
    return lines + versions_lines(figures)


def title(against: str | None) -> str:
    """The first line of a table that has a `row` for each length."""
    ours = f"{'texts':>5}{'prompt':>7}{'tokens/s':>10}{'first token':>12}{'each step':>12}{'bandwidth':>11}"
    return ours + (f"{against:>10}{'ratio':>8}{'':15}{'tokens':>9}" if against else "")


def row(figures: Figures) -> list[str]:
    """The most important figures of a `table` in one line; below it, where the two sides part."""
    sizes, ours, peer = figures["sizes"], figures["ours"], figures["peer"]
    line = (
        f"{sizes['batch_size']:>5}{sizes['prompt_tokens']:>7}{ours['tokens_per_s']:>10,.1f}"
        f"{ours['first_token_ms']:>9,.1f} ms{ours['token_ms']:>9,.2f} ms{ours['memory_traffic']:>11.0%}"
    )
    if peer is None:
        return [line]
    low, high = figures["ratio_spread"]
    compared = figures["compared"]
    tokens = (
        "-"
        if compared is None
        else "differ"
        if not same_tokens(figures)
        else "near-tie"
        if compared["parted"]
        else "same"
    )
    line += f"{peer['tokens_per_s']:>10,.1f}{figures['ratio']:>8.3f} {f'({low:.2f} to {high:.2f})':<14}{tokens:>9}"
    return [line] + (["      " + one for one in _comparison(figures)] if tokens in ("differ", "near-tie") else [])


def _rows(figures: Figures) -> list[tuple[str, Callable[[Figures], str]]]:
    """Labels, and functions that write the figure of a side."""
    speed = figures["machine"]["bytes_per_s"] / 1e9
    return [
        (f"tokens a second, median of {figures['sizes']['texts']}", lambda s: f"{s['tokens_per_s']:,.1f}"),
        ("to the first token", lambda s: f"{s['first_token_ms']:,.1f} ms"),
        ("each step after it, median", lambda s: f"{s['token_ms']:,.2f} ms"),
        ("10th to 90th percentile", lambda s: "{:,.2f} to {:,.2f} ms".format(*s["spread"])),
        ("weights that a step reads", lambda s: f"{s['weight_bytes'] / 1e6:,.1f} MB"),
        (f"as part of {speed:.1f} GB/s measured", lambda s: f"{s['memory_traffic']:.0%}"),
        ("from start to first text done", lambda s: f"{s['first_text_s']:.1f} s"),
        ("peak memory", lambda s: f"{s['peak_bytes'] / 2**20:,.0f} MiB"),
    ]


def _comparison(figures: Figures) -> list[str]:
    compared, name = figures["compared"], figures["against"]
    if compared is None:
        return [f"tokens not compared: weights are {figures['sizes']['weights']} in jaxllm, float32 in {name}"]
    difference = error_text(compared["logits_difference"], figures["tolerance"])
    lines = [f"logits of the first token differ by at most {difference}"]
    for part in compared["parted"]:
        what = "a near-tie" if part["gap"] <= figures["tolerance"] else "no near-tie"
        lines.append(
            f"text {part['row'] + 1} parts at token {part['token'] + 1}: jaxllm prefers its own by "
            f"{error_text(part['gap'], figures['tolerance'])}, {what}"
        )
    if not same_tokens(figures):
        lines.append(f"more than {bound_text(figures['tolerance'])} apart: the two do not compute the same")
    elif not compared["parted"]:
        lines.append("all tokens are the same")
    if compared["tokens"] < figures["sizes"]["new_tokens"]:
        lines.append(f"compared are the first {compared['tokens']:,}, drawn before the context is full")
    return lines
