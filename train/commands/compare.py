"""`jaxllm compare`: model, gradients and optimizer step of a config or a run against the NumPy reference.

Two runs are compared with each other by `compare_runs`, a model of PyTorch with one of ours by `compare_foreign`.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxllm import GPT, GPTConfig, __version__
from jaxllm.compare import compare_model, compare_optimizer, random_parameters
from jaxllm.compare.report import Report, fold, table
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.ideas import with_names

from ..config import ModelConfig, RunConfig, TrainConfig
from ..config_file import build_config, load_config, sections
from ..ideas import Code, load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import STAND_IN, model_without_text
from ..optimizer import learning_rate_schedule, make_optimizer
from ..outputs import check_output
from ..runs.load import load_run
from ..tune.partition import partition_of
from .compare_foreign import add_foreign, run_against, write_recorder
from .compare_places import split_step
from .compare_plot import draw_errors
from .compare_rows import prepared_data, row_length, validation_rows
from .compare_runs import compare_two
from .options import Parser, add_code, add_overrides, add_step

MOST_WINDOWS = 1024
EXAMPLES = """jaxllm compare configs/gpt2-124m.toml --dtype float32 --out error.png
  jaxllm compare runs/here:100 runs/there:100
  jaxllm compare configs/gpt2-124m.toml --against trace.npz"""
SMALL = RunConfig(
    model=ModelConfig(vocab_size=STAND_IN, context_length=64, d_model=64, n_layers=4, n_heads=4),
    train=TrainConfig(steps=1000),
)


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, EXAMPLES)
    parser.add_argument(
        "path", nargs="?", metavar="CONFIG.toml|RUN",
        help="a config (random weights), or a run (its newest checkpoint) or RUN:STEP; default: a small GPT",
    )  # fmt: skip
    parser.add_argument(
        "other", nargs="?", metavar="RUN",
        help="a second run, right behind the first: the two are compared with each other, and exit 1 says that they "
        "part; each may be RUN:STEP, with a number or best (--step is that of those without)",
    )  # fmt: skip
    add_step(parser)
    parser.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X",
        help="of two runs: the largest relative difference that is none; default 0, equal bits",
    )  # fmt: skip
    add_overrides(parser)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float64"), help="type of the computation; default: the config's"
    )
    parser.add_argument("--batch-size", type=int, default=1, metavar="B", help="windows to compare on; default 1")
    parser.add_argument("--length", type=int, metavar="T", help="tokens of a window; default: the context, at most 128")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE.json",
        help="write all rows as JSON into a file, or print them instead of the table",
    )  # fmt: skip
    parser.add_argument("--out", metavar="PICTURE.png", help="draw error against depth")
    add_code(parser)
    add_foreign(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, write JSON and picture; returns 1 if a number is beyond tolerance."""
    a = arguments
    if a.recorder:
        return write_recorder(a.recorder)
    if a.against:
        return run_against(a)
    _check_options(a)
    if a.other is not None:
        return compare_two(a)
    print_json = a.json == "-"
    check_output("--json", None if print_json else a.json, (".json",))
    check_output("--out", a.out, (".png", ".svg", ".pdf"))
    path, step = split_step(a.path, a.step) if a.path else (None, a.step)
    subject = choose_subject(path, step, a.overrides, a.batch_size, a.length, load_code(a.code))
    dtype = a.dtype or subject.config.train.dtype
    if not print_json:
        print(headline(subject, dtype), flush=True)
    report = compare(subject, dtype)
    text = json.dumps(about(subject) | report.as_dict(), indent=1, allow_nan=False)
    if print_json:
        print(text)
    else:
        parameters = [row for row in report.rows if row.stage not in ("forward", "backward")]
        print("\n".join([*table([r for r in report.rows if r not in parameters] + fold(parameters)), report.summary()]))
        if subject.without_optimizer:
            print(subject.without_optimizer)
    if a.json and not print_json:
        replace_file(Path(a.json), f"{text}\n".encode())
    if a.out:
        draw_errors(report, Path(a.out))
    return 0 if report.passed else 1


def _check_options(a: argparse.Namespace) -> None:
    """Raises InputError for options that do not belong together."""
    if a.names:
        raise InputError("--names is for --against; name the recording too.")
    if not 1 <= a.batch_size <= MOST_WINDOWS:
        raise InputError(f"--batch-size is {a.batch_size}, but it must be from 1 to {MOST_WINDOWS}.")
    if a.length is not None and a.length < 1:
        raise InputError(f"--length is {a.length}, but it must be at least 1.")
    if a.other is None and a.tolerance:
        raise InputError(f"--tolerance is {a.tolerance}, but only two runs are compared within one; name the second.")


def headline(subject: "Subject", dtype: str) -> str:
    """What is compared, on which device, and what the errors are relative to."""
    return (
        f"{subject.name}, {' x '.join(map(str, subject.inputs.shape))} tokens, {dtype} on "
        f"{jax.devices()[0].platform}, against NumPy in float64; errors relative to the largest value of each "
        "tensor, or of its terms where they cancel"
    )


def about(subject: "Subject") -> dict[str, Any]:
    """The part of the JSON that says what was compared, and by which versions."""
    return {
        "subject": subject.name, "model": with_names(asdict(subject.model)), "shape": list(subject.inputs.shape),
        "device": jax.devices()[0].device_kind, "jaxllm": __version__, "jax": jax.__version__, "numpy": np.__version__,
        "left_out": subject.without_optimizer or None,
    }  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model to compare, with its parameters, the state of its optimizer and a batch."""

    name: str
    model: GPTConfig
    config: RunConfig
    params: Any
    opt_state: Any  # None: random moments
    step: int
    inputs: np.ndarray  # [B, T]
    targets: np.ndarray

    @property
    def without_optimizer(self) -> str:
        """Why the optimizer step is left out, or ""."""
        if partition_of(self.config) is None or self.opt_state is None:
            return ""
        which = "adapters" if self.config.lora.rank else f"the parameters of tune.train = {self.config.tune.train!r}"
        return f"the optimizer step is left out: its state is that of {which} alone"


def choose_subject(
    path: str | None, step: str | None, overrides: list[str], batch_size: int, length: int | None,
    code: Code | None = None,
) -> Subject:  # fmt: skip
    """The subject of a run folder, of a config file, or without a path of a small GPT; `overrides` change a config.

    Raises InputError for options that do not fit the path.
    """
    is_run = path is not None and Path(path).is_dir()
    if step is not None and not is_run:
        raise InputError(f"--step is {step!r}, but only a run folder has steps; leave it out or name one.")
    if overrides and is_run:
        raise InputError(
            f"--set {overrides[0]} would change the config that {path} was trained with; leave it out, or name a "
            "config file."
        )
    if path is None:
        return from_config(resolve(build_config(sections(SMALL), overrides), code), "a small GPT", batch_size, length)
    if is_run:
        return from_run(path, step, batch_size, length, code)
    return from_config(resolve(load_config(path, overrides), code), path, batch_size, length)


def from_config(config: RunConfig, name: str, batch_size: int, length: int | None) -> Subject:
    """Random parameters and tokens, at the fourth optimizer step, where Adam's bias correction still matters."""
    model = model_without_text(config)
    check_ideas(config, model)
    shape = (batch_size, row_length(length, model) + 1)
    tokens = np.random.default_rng(0).integers(model.vocab_size, size=shape).astype(np.int32)
    params = random_parameters(GPT(model))
    targets = tokens[:, 1:] % (model.n_classes or model.vocab_size)
    return Subject(f"{name}, random weights", model, config, params, None, 3, tokens[:, :-1], targets)


def from_run(
    path: str, step: str | None, batch_size: int, length: int | None, code: Code | None = None
) -> Subject:  # fmt: skip
    """A checkpoint of a run folder, by default the newest, and the first rows of its validation split.

    Adapters are added to their maps.
    """
    run = load_run(path, step, with_optimizer=True, code=code)
    length = row_length(length, run.model.config)
    inputs, targets = validation_rows(run, prepared_data(run), batch_size, length)
    return Subject(
        f"{path}, step {run.step:,}", run.model.config, run.config, run.params, run.opt_state, run.step, inputs, targets
    )


def compare(subject: Subject, dtype: str) -> Report:
    """Forward, backward, gradients of the parameters, then the optimizer step made from those gradients."""
    rows, gradients = compare_model(
        subject.model, subject.params, subject.inputs, subject.targets, dtype, subject.config.train.loss
    )
    if subject.without_optimizer:
        return Report.of(dtype, rows)
    config, steps, width_ratio = subject.config.optimizer, subject.config.train.steps, subject.model.width_ratio
    rows += compare_optimizer(
        make_optimizer(config, steps, width_ratio), learning_rate_schedule(config, steps), config, steps, subject.step,
        subject.params, gradients, subject.opt_state, "float64" if dtype == "float64" else "float32", width_ratio,
    )  # fmt: skip
    return Report.of(dtype, rows)
