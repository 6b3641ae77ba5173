"""`jaxllm bench tune`: the step of tuning by adapters beside that of tuning all parameters, in time and memory.

Both sides train a model of the same shape, with random weights, on random tokens: neither speed nor memory depends on
their values. Each is a process of its own (`train.bench.train_worker`), and they take turns.
"""

import json
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jaxllm.config import GPTConfig
from jaxllm.tokenizers import load_tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.ideas import with_names

from ..config import ModelConfig, RunConfig, TrainConfig, row_length
from ..config_file import build_config, sections
from ..outputs import check_output
from ..runs.folder import RunFolder
from ..tune.config import LoraConfig
from . import alternate, train_recording
from .alternate import Show, check_rounds, status_line
from .machine import processor, versions_lines
from .process import Worker
from .statistics import Figures, Spread, speed_ratio
from .train_recording import TrainRecording, take_turns
from .train_report import headline
from .workload import Workload

SMOLLM2 = ModelConfig(  # HuggingFaceTB/SmolLM2-135M
    vocab_size=49152, context_length=8192, d_model=576, n_layers=30, n_heads=9, n_kv_heads=3, d_ff=1536,
    position="rotary", rope_base=1e5, norm="rms_norm", activation="swiglu", use_bias=False,
)  # fmt: skip
DEFAULT = RunConfig(
    model=SMOLLM2, train=TrainConfig(batch_size=4, window=256), lora=LoraConfig(rank=8)
)  # 1,024 tokens a step, as many as 40 short examples have


def bench_tune_command(run: str | None, overrides: list[str], rounds: int, json_file: str | None) -> None:
    """Prints the table and writes the JSON."""
    check_rounds(rounds)
    check_output("--json", json_file, (".json",))
    config = bench_config(run, overrides)
    workload = workload_of(config)
    print(f"{run or 'the shape of SmolLM2-135M'}: " + "\n".join(headline(workload)), flush=True)
    with status_line() as show:
        recordings = record(workload, rounds, show)
    figures = make_figures(workload, recordings)
    print("\n".join(table(figures)))
    if json_file:
        replace_file(Path(json_file), f"{json.dumps(figures, indent=1, allow_nan=False)}\n".encode())


def bench_config(run: str | None, overrides: list[str]) -> RunConfig:
    """DEFAULT with the model of a run, whose weights are not read, and with `overrides`. Raises InputError."""
    config = DEFAULT
    if run is not None:
        folder = RunFolder(run)
        model = folder.read_config().model.with_vocabulary(load_tokenizer(folder.tokenizer).vocab_size)
        window = min(model.context_length, DEFAULT.train.window or 0)
        config = replace(config, model=ModelConfig(**asdict(model)), train=replace(config.train, window=window))
    config = build_config(sections(config), overrides)
    if not config.lora.rank:
        raise InputError("lora.rank is 0, which is no adapter; give a rank, such as --set lora.rank=8.")
    return config


def workload_of(config: RunConfig) -> Workload:
    """What both sides train: rows of `train.window` tokens, without dropout. Raises InputError for a longer row."""
    model, row = config.model, row_length(config.model, config.train)
    if row > model.context_length:
        raise InputError(
            f"train.window is {row:,}, more than model.context_length = {model.context_length:,}; make it smaller."
        )
    shape = GPTConfig(**asdict(model) | {"context_length": row, "dropout": 0.0})
    return Workload(shape, replace(config, train=replace(config.train, window=None)))


def record(workload: Workload, rounds: int, show: Show) -> list[TrainRecording]:
    """Adapters and all parameters by turns."""
    job = workload.job() | {"save_weights": None, "load_weights": None}
    jobs = {"adapters": job | {"lora": asdict(workload.config.lora)}, "all parameters": job}
    with ExitStack() as stack:
        workers, begun = [], []
        for name, one in jobs.items():
            show(f"starting the side of {name}")
            workers.append(stack.enter_context(Worker(name, train_recording.OURS, one, alternate.ROOT)))
            begun.append(workers[-1].start())
        return take_turns(workers, begun, workload.rates, rounds, show)


def make_figures(workload: Workload, recordings: list[TrainRecording]) -> Figures:
    """All figures: `ours` is the side of adapters, `peer` that of all parameters."""
    ours, peer = recordings
    ratio, train = speed_ratio(ours.seconds, peer.seconds), workload.config.train
    sides = [_side(workload, one) for one in recordings]
    return {
        "against": "all parameters",
        "ratio": ratio.median,
        "ratio_spread": [ratio.low, ratio.high],
        "memory_ratio": sides[0]["peak_bytes"] / sides[1]["peak_bytes"] if sides[1]["peak_bytes"] else None,
        "ours": sides[0],
        "peer": sides[1],
        "sizes": with_names(asdict(workload.model)) | {
            "batch_size": train.batch_size, "grad_accumulation": train.grad_accumulation, "dtype": train.dtype,
            "lora": asdict(workload.config.lora), "rounds": len(ours.turns), "steps": sum(map(len, ours.seconds)),
        },
        "machine": {
            "processor": processor(), "cores": os.cpu_count(), "system": platform.system(),
            "device": ours.begun["device"],
        },
        "versions": ours.begun["versions"] | {"all parameters": peer.begun["versions"]},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def _side(workload: Workload, recording: TrainRecording) -> Figures:
    step = Spread.of([s for seconds in recording.seconds for s in seconds])
    return {
        "n_changing": recording.begun["n_parameters"],
        "step_ms": 1e3 * step.median,
        "spread": [1e3 * step.low, 1e3 * step.high],
        "tokens_per_s": workload.tokens_per_step / step.median,
        "compile_s": recording.begun["compile_s"],
        "peak_bytes": recording.ended["peak_bytes"],
    }


def table(figures: Figures) -> list[str]:
    """Both sides beside each other, then their ratios and the versions."""
    rank, steps, sides = figures["sizes"]["lora"]["rank"], figures["sizes"]["steps"], (figures["ours"], figures["peer"])
    rows: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
        ("numbers that change", lambda s: f"{s['n_changing']:,}"),
        (f"step, median of {steps:,}", lambda s: f"{s['step_ms']:,.1f} ms"),
        ("10th to 90th percentile", lambda s: "{:,.1f} to {:,.1f} ms".format(*s["spread"])),
        ("tokens a second", lambda s: f"{s['tokens_per_s']:,.0f}"),
        ("compilation", lambda s: f"{s['compile_s']:.1f} s"),
        ("peak memory", lambda s: f"{s['peak_bytes'] / 2**20:,.0f} MiB"),
    ]
    lines = [f"{'':<28}{f'adapters of rank {rank}':>24}{'all parameters':>24}"]
    lines += [f"{label:<28}" + "".join(f"{write(side):>24}" for side in sides) for label, write in rows]
    low, high = figures["ratio_spread"]
    memory = "" if figures["memory_ratio"] is None else f", in {figures['memory_ratio']:.2f} times the memory"
    lines.append(
        f"a step with adapters is {figures['ratio']:.2f} times as fast ({low:.2f} to {high:.2f} over "
        f"{figures['sizes']['rounds']} rounds){memory}"
    )
    return lines + versions_lines(figures)[:1]
