"""`jaxllm bench plan`: what `jaxllm plan` says of this machine beside XLA's plan of the whole step and real steps.

A process of its own makes each plan, and another (`train.bench.plan_worker`) compiles all blocks, or takes steps.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.utils.files import replace_file

from ..config_file import load_config
from ..outputs import check_output
from ..plan.process import ask, environment, planned
from ..tune.kinds import check_plain
from .machine import processor

LAYOUTS = ((1, 1, 1), (8, 1, 1), (1, 8, 1), (1, 1, 2), (1, 4, 2), (2, 2, 2))  # data, fsdp, tensor
AXES = ("data", "fsdp", "tensor")
DEEP = ("model.n_layers=6", "model.d_model=64", "model.n_heads=4", "model.context_length=128", "train.batch_size=16")
SIZES = {  # of the timed steps, of four blocks each
    "128 wide": ("model.d_model=128", "model.n_heads=4", "model.context_length=128", "train.batch_size=16"),
    "384 wide": ("model.d_model=384", "model.n_heads=6", "model.context_length=256", "train.batch_size=8"),
    "768 wide": (
        "model.d_model=768", "model.n_heads=12", "model.context_length=512", "train.batch_size=4",
        "model.vocab_size=16384",
    ),
}  # fmt: skip
TURNS = 3
WORKER = f"{__package__}.plan_worker"

Job = dict[str, Any]
Row = dict[str, Any]


def bench_plan_command(config: str, overrides: list[str], json_file: str | None) -> None:
    """Prints a row as soon as it is known: memory for each layout, without and with remat, then seconds by size."""
    check_output("--json", json_file, (".json",))
    check_plain(load_config(config, overrides), "a bench is of random weights and tokens")
    print(f"{config} on {processor()}\nmemory of a device in MiB, by the plan and by XLA for all blocks at once")
    print(f"{'data, fsdp, tensor':>18} {'remat':>6} {'plan':>9} {'XLA':>9}", flush=True)
    memory, seconds = [], []
    for row in memory_rows(config, overrides):
        memory.append(row)
        sizes, kept = ", ".join(map(str, row["layout"])), str(row["remat"]).lower()
        print(
            f"{sizes:>18} {kept:>6} {row['planned'] / 2**20:>9.2f} {row['whole'] / 2**20:>9.2f} {row['error']:>+7.1%}",
            flush=True,
        )
    print(f"seconds of a step on one device, by the plan and as measured, medians of {TURNS} turns")
    for row in time_rows(config, overrides):
        seconds.append(row)
        said, took = (1e3 * float(np.median(row[name])) for name in ("planned_s", "real_s"))
        ratios = ", ".join(f"{each:.2f}" for each in row["ratios"])
        print(f"{row['size']:>18} {said:>9.1f} ms {took:>9.1f} ms {row['error']:>+7.1%}  (ratios {ratios})", flush=True)
    if json_file:
        content = {"config": config, "machine": processor(), "memory": memory, "time": seconds}
        replace_file(Path(json_file), f"{json.dumps(content, indent=1)}\n".encode())


def memory_rows(config: str, overrides: list[str]) -> Iterator[Row]:
    """The planned and the whole memory of each layout. One process compiles for a layout with and without remat."""
    for layout in LAYOUTS:
        sizes = [f"parallel.{axis}={size}" for axis, size in zip(AXES, layout, strict=True)]
        job = _job(config, [*overrides, *DEEP, *sizes], int(np.prod(layout)))
        for remat, (said, whole) in ask(WORKER, job | {"what": "memory"}, environment(job)).items():
            row = {"layout": layout, "remat": remat == "true", "planned": said, "whole": whole}
            yield row | {"error": said / whole - 1}


def time_rows(config: str, overrides: list[str]) -> Iterator[Row]:
    """The planned and the real seconds of a step of each size, a plan and some steps by turns."""
    for size, sets in SIZES.items():
        job = _job(config, [*overrides, "model.n_layers=4", *sets], 1)
        turns = [(planned(job)["local_s"], ask(WORKER, job | {"what": "step"}, environment(job))) for _ in range(TURNS)]
        said, took = [turn[0] for turn in turns], [turn[1]["ms"] / 1e3 for turn in turns]
        ratios = [a / b for a, b in zip(said, took, strict=True)]
        error = float(np.median(ratios)) - 1
        yield {"size": size, "planned_s": said, "real_s": took, "ratios": ratios, "error": error}


def _job(config: str, overrides: list[str], n_devices: int) -> Job:
    return {
        "config": config, "overrides": overrides, "code": None, "kind": "cpu", "n_devices": n_devices, "topology": ""
    }  # fmt: skip
