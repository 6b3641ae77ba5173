"""`jaxllm compare`: model, gradients and optimizer step of a config or a run against the NumPy reference."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm import GPT, GPTConfig, __version__
from jaxllm.compare import compare_model, compare_optimizer, random_parameters
from jaxllm.compare.report import Report, bound_text, fold, table
from jaxllm.data.batches import evaluation_batches, n_targets
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config import ModelConfig, RunConfig, TrainConfig, load_config
from ..inputs import STAND_IN, model_without_text, prepare
from ..optimizer import learning_rate_schedule, make_optimizer
from ..outputs import check_output
from ..plotting import content, new_figure, noted
from ..runs.load import load_run

LONGEST = 128  # tokens of a window, unless asked for more: the reference takes its time
MOST_WINDOWS = 1024
SMALL = RunConfig(
    model=ModelConfig(vocab_size=STAND_IN, context_length=64, d_model=64, n_layers=4, n_heads=4),
    train=TrainConfig(steps=1000),
)


@dataclass(frozen=True)
class Subject:
    """What is compared."""

    name: str
    model: GPTConfig
    config: RunConfig
    params: Any
    opt_state: Any  # None: to be made up
    step: int
    inputs: np.ndarray  # [B, T]
    targets: np.ndarray


def from_config(config: RunConfig, name: str, batch_size: int, length: int | None) -> Subject:
    """Random parameters and tokens, and the fourth optimizer step, where bias correction still matters."""
    model = model_without_text(config)
    shape = (batch_size, _length(length, model) + 1)
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=shape).astype(np.int32)
    params = random_parameters(GPT(model))
    return Subject(f"{name}, random weights", model, config, params, None, 3, tokens[:, :-1], tokens[:, 1:])


def from_run(path: str, step: str | None, batch_size: int, length: int | None) -> Subject:
    """The newest checkpoint of a run folder, or that of a step, on the first windows of its validation split.

    The windows of an imported model begin with its begin token.
    """
    run = load_run(path, step, with_optimizer=True)
    ids = prepare(run.config, run.tokenizer).validation_ids
    n = n_targets(ids, run.begin_token)
    length = min(_length(length, run.model.config), n)
    if batch_size > n // length:
        raise InputError(
            f"--batch-size is {batch_size}, but the validation split has {n // length} windows of {length} tokens."
        )
    inputs, targets, _ = next(evaluation_batches(ids, length, batch_size, run.begin_token))
    return Subject(
        f"{path}, step {run.step:,}", run.model.config, run.config, run.params, run.opt_state, run.step, inputs, targets
    )


def _length(length: int | None, model: GPTConfig) -> int:
    if length is not None and length > model.context_length:
        raise InputError(f"--length is {length}, more than model.context_length = {model.context_length}.")
    return length or min(LONGEST, model.context_length)


def compare(subject: Subject, dtype: str) -> Report:
    """Forward, backward, gradients of the parameters, then the optimizer step made from those gradients."""
    rows, gradients = compare_model(subject.model, subject.params, subject.inputs, subject.targets, dtype)
    config, steps = subject.config.optimizer, subject.config.train.steps
    rows += compare_optimizer(
        make_optimizer(config, steps), learning_rate_schedule(config, steps), config, steps, subject.step,
        subject.params, gradients, subject.opt_state, "float64" if dtype == "float64" else "float32",
    )  # fmt: skip
    return Report.of(dtype, rows)


def compare_command(
    source: str | None, step: str | None, dtype: str | None, batch_size: int, length: int | None,
    json_file: str | None, out: str | None,
) -> bool:  # fmt: skip
    """`jaxllm compare`: prints the table, writes JSON and picture; returns whether all is within tolerance."""
    if not 1 <= batch_size <= MOST_WINDOWS:
        raise InputError(f"--batch-size is {batch_size}, but it must be from 1 to {MOST_WINDOWS}.")
    if length is not None and length < 1:
        raise InputError(f"--length is {length}, but it must be at least 1.")
    print_json = json_file == "-"
    check_output("--json", None if print_json else json_file, (".json",))
    check_output("--out", out, (".png", ".svg", ".pdf"))
    if step is not None and not (source and Path(source).is_dir()):
        raise InputError(f"--step is {step!r}, but only a run folder has steps; leave it out or name one.")
    if source is None:
        subject = from_config(SMALL, "a small GPT", batch_size, length)
    elif Path(source).is_dir():
        subject = from_run(source, step, batch_size, length)
    else:
        subject = from_config(load_config(source), source, batch_size, length)
    dtype = dtype or subject.config.train.dtype
    if not print_json:
        print(
            f"{subject.name}, {' x '.join(map(str, subject.inputs.shape))} tokens, {dtype} on "
            f"{jax.devices()[0].platform}, against NumPy in float64; errors relative to the largest value of each "
            "tensor, or of its terms where they cancel",
            flush=True,
        )
    report = compare(subject, dtype)
    about = {
        "subject": subject.name, "model": asdict(subject.model), "shape": list(subject.inputs.shape),
        "device": jax.devices()[0].device_kind, "jaxllm": __version__, "jax": jax.__version__, "numpy": np.__version__,
    }  # fmt: skip
    text = json.dumps(about | report.as_dict(), indent=1, allow_nan=False)
    if print_json:
        print(text)
    else:
        parameters = [row for row in report.rows if row.stage not in ("forward", "backward")]
        print("\n".join([*table([r for r in report.rows if r not in parameters] + fold(parameters)), report.summary()]))
    if json_file and not print_json:
        replace_file(Path(json_file), f"{text}\n".encode())
    if out:
        draw_errors(report, Path(out))
    return report.passed


def draw_errors(report: Report, path: Path) -> None:
    """Relative error of every intermediate against depth, forward and backward, on a logarithmic axis.

    Where that fails a note says why: the comparison itself stands.
    """
    with noted(path):
        replace_file(path, _picture_of_errors(report, path.suffix))


def _picture_of_errors(report: Report, suffix: str) -> bytes:
    depth = [row.name for row in report.rows if row.stage == "forward"]
    figure = new_figure(9, 4.5, layout="constrained")
    axes = figure.subplots()
    for stage, colour in (("forward", "tab:blue"), ("backward", "tab:orange")):
        rows = sorted((row for row in report.rows if row.stage == stage), key=lambda row: depth.index(row.name))
        at = [depth.index(row.name) for row in rows]
        errors = [min(row.relative, 1e6) or math.nan for row in rows]  # no error has no place on this axis
        axes.semilogy(at, errors, "o-", color=colour, markersize=3, linewidth=0.8, label=stage)
        axes.axhline(rows[0].tolerance, color=colour, linestyle=":", label=f"tolerance {bound_text(rows[0].tolerance)}")
        for x, y, row in zip(at, errors, rows, strict=True):
            if row.jump:
                axes.annotate(f"jumps at {row.name}", (x, y), xytext=(5, 5), textcoords="offset points")
    ticks: list[int] = []
    for i, name in enumerate(depth):  # modules of the first level, where there is room
        if "/" not in name and (not ticks or i - ticks[-1] > len(depth) / 40):
            ticks.append(i)
    axes.set_xticks(ticks, [depth[i] for i in ticks], rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="relative error", title=f"{report.dtype} against float64 NumPy, by depth")
    axes.grid(alpha=0.3)
    axes.legend()
    return content(figure, suffix, dpi=120)
