"""The figures of `jaxllm bench train`, and their table."""

import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from jaxllm.flops import flops_per_token
from jaxllm.utils.ideas import with_names

from .machine import processor, versions_lines
from .sides import Other, commits
from .statistics import Figures, Spread, datasheet_peak, speed_ratio
from .train_recording import TrainRecording
from .workload import Workload

AGREEMENT = {"float32": 1e-3, "bfloat16": 2e-2}  # of the losses after the last step, relative


def make_figures(workload: Workload, recordings: list[TrainRecording], other: Other | None) -> Figures:
    """All figures; `peer` and the comparisons with it are None if ours ran alone."""
    first, peer, train = recordings[0], recordings[-1], workload.config.train
    product = first.ended["product_flops_per_s"]
    sides = [_side(workload, recording, product, first.begun["device"]) for recording in recordings]
    ratio = speed_ratio(first.seconds, peer.seconds) if other else None
    return commits(other) | {
        "against": other.name if other else None,
        "ratio": ratio and ratio.median,
        "ratio_spread": ratio and [ratio.low, ratio.high],
        "loss_difference": abs(sides[0]["loss"] - sides[1]["loss"]) / abs(sides[1]["loss"]) if other else None,
        "loss_tolerance": AGREEMENT[train.dtype] if other else None,
        "ours": sides[0],
        "peer": sides[1] if other else None,
        "sizes": with_names(asdict(workload.model)) | {
            "parameters": first.begun["n_parameters"], "batch_size": train.batch_size,
            "grad_accumulation": train.grad_accumulation, "dtype": train.dtype,
            "rounds": len(first.turns), "steps": sum(map(len, first.seconds)),
        },
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.system(),
            "device": first.begun["device"], "product_flops_per_s": product,
            "datasheet_flops_per_s": datasheet_peak(first.begun["device"], train.dtype),
        },
        "versions": first.begun["versions"] | ({other.name: peer.begun["versions"]} if other else {}),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _side(workload: Workload, recording: TrainRecording, product_flops_per_s: float, device: str) -> Figures:
    """The figures of one side, over all steps of all rounds."""
    step = Spread.of([s for seconds in recording.seconds for s in seconds])
    flops_per_s = workload.tokens_per_step * flops_per_token(workload.model) / step.median
    datasheet = datasheet_peak(device, workload.config.train.dtype)
    return {
        "tokens_per_s": workload.tokens_per_step / step.median,
        "step_ms": 1e3 * step.median,
        "spread": [1e3 * step.low, 1e3 * step.high],
        "round_ms": [1e3 * float(np.median(seconds)) for seconds in recording.seconds],
        "mfu": flops_per_s / product_flops_per_s,
        "datasheet_mfu": datasheet and flops_per_s / datasheet,
        "compile_s": recording.begun["compile_s"],
        "first_step_s": recording.begun["first_step_s"],
        "peak_bytes": recording.ended["peak_bytes"],
        "first_loss": recording.begun["loss"],
        "loss": recording.turns[-1]["losses"][-1],
    }


def losses_agree(figures: Figures) -> bool:
    """Whether both sides have computed the same; True if ours ran alone."""
    return figures["peer"] is None or figures["loss_difference"] <= figures["loss_tolerance"]


def headline(workload: Workload) -> list[str]:
    """What is timed and where, as far as it is known in advance."""
    m, t = workload.model, workload.config.train
    parts = f" in {t.grad_accumulation} parts" if t.grad_accumulation > 1 else ""
    return [
        f"{m.n_layers} layers, {m.n_heads} heads, {m.d_model} wide, {m.vocab_size:,} ids, {t.dtype}",
        f"a step is {t.batch_size} x {m.context_length} tokens{parts}; {processor()}, {os.cpu_count()} cores, "
        f"{platform.system()}; {datetime.now():%Y-%m-%d}",
    ]


def table(figures: Figures) -> list[str]:
    """The figures of ours and the peer side by side, then their ratio and the versions."""
    names = ["jaxllm", figures["against"]] if figures["peer"] else ["jaxllm"]
    sides = [figures["ours"], figures["peer"]][: len(names)]
    rows = [("", names)] + [
        (label, [write(s) for s in sides]) for label, write in _rows(figures["machine"], figures["sizes"]["steps"])
    ]
    lines = [f"{label:<36}" + "".join(f"{cell:>24}" for cell in cells) for label, cells in rows]
    if figures["peer"]:
        low, high = figures["ratio_spread"]
        lines.append(
            f"jaxllm is {figures['ratio']:.3f} times as fast as {figures['against']} ({low:.3f} to {high:.3f} over "
            f"{figures['sizes']['rounds']} rounds)"
        )
    return lines + versions_lines(figures)


def _rows(machine: dict[str, Any], steps: int) -> list[tuple[str, Callable[[Figures], str]]]:
    """Labels, and functions that write the figure of a side."""
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        (f"step, median of {steps:,}", lambda s: f"{s['step_ms']:,.1f} ms"),
        ("10th to 90th percentile", lambda s: "{:,.1f} to {:,.1f} ms".format(*s["spread"])),
        ("tokens a second", lambda s: f"{s['tokens_per_s']:,.0f}"),
        (f"MFU, of {_speed(machine['product_flops_per_s'])} measured", lambda s: f"{s['mfu']:.1%}"),
    ]
    if machine["datasheet_flops_per_s"]:
        label = f"MFU, of {_speed(machine['datasheet_flops_per_s'])} stated"
        rows.append((label, lambda s: f"{s['datasheet_mfu']:.1%}"))
    return rows + [
        ("compilation", lambda s: f"{s['compile_s']:.1f} s"),
        ("from start to first step done", lambda s: f"{s['first_step_s']:.1f} s"),
        ("peak memory", lambda s: f"{s['peak_bytes'] / 2**20:,.0f} MiB"),
        ("loss of the first step", lambda s: f"{s['first_loss']:.6f}"),
        ("loss of the last", lambda s: f"{s['loss']:.6f}"),
    ]


def _speed(flops_per_s: float) -> str:
    scale, unit = (1e12, "TFLOP/s") if flops_per_s >= 1e12 else (1e9, "GFLOP/s")
    return f"{flops_per_s / scale:,.0f} {unit}"
