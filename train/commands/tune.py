"""`jaxllm tune`: trains on from weights that exist, with a config made for it.

It is `jaxllm train` with [init], [tune] and [lora]: `--resume`, sweeps and all that reads a run work alike.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file

from ..config import RunConfig, build_config, keys
from ..ideas import load_code, resolve
from ..runs.folder import RunFolder
from .options import Parser, add_code, add_overrides
from .train import start

BATCH = 8  # examples of a step
PRETRAIN_ROW = 512  # tokens of a row of text; a whole context may need more memory than there is
RATES = {True: 5e-4, False: 5e-5}  # learning rates, with adapters and without
KINDS = ("instruct", "classify", "prefer", "pretrain")


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm tune runs/smollm2 examples.jsonl --out runs/mine --set lora.rank=8")
    parser.add_argument("base", metavar="BASE", help="a run, or what `jaxllm import` takes")
    parser.add_argument("data", metavar="DATA", help="a file of examples, JSON lines; for --kind pretrain any text")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder to make")
    parser.add_argument("--kind", choices=KINDS, default="instruct", help="what an example is; default instruct")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="passes over the examples; default 3")
    add_overrides(parser)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Make the config, print it, and train."""
    a = arguments
    if a.epochs < 1:
        raise InputError(f"--epochs is {a.epochs}, but it must be at least 1.")
    config = tuning_config(a.base, a.data, a.kind, a.epochs, a.overrides)
    code = load_code(a.code)
    start(RunFolder(a.out), resolve(config, code), None, code)


def tuning_config(base: str, data: str, kind: str, epochs: int, overrides: list[str]) -> RunConfig:
    """The config of a tuning; `overrides` come last. Raises InputError."""
    sections: dict[str, dict[str, Any]] = {
        "init": {"from": base}, "data": {"source": data}, "tune": {"kind": kind}, "eval": {"sample_tokens": 48},
        "train": {"batch_size": BATCH} | ({"window": PRETRAIN_ROW} if kind == "pretrain" else {}),
    }  # fmt: skip
    given = build_config(sections | {"optimizer": {"warmup_steps": 0}}, overrides)
    chosen = {override.partition("=")[0].strip() for override in overrides}
    steps = given.train.steps
    if "train.steps" not in chosen and kind != "pretrain":
        steps = max(math.ceil(epochs * 0.9 * n_lines(data) / given.train.batch_size), 2)
    rate = given.optimizer.learning_rate if "optimizer.learning_rate" in chosen else RATES[given.lora.rank > 0]
    derived = {
        "train.steps": steps,
        "optimizer.learning_rate": rate,
        "optimizer.min_learning_rate": rate / 10,
        "optimizer.warmup_steps": steps // 10,
        "eval.every": max(steps // 4, 1),
        "checkpoint.every": max(steps, 1),
    }
    for name, value in derived.items():
        section, _, key = name.partition(".")
        assert key in keys(section)
        sections.setdefault(section, {}).setdefault(key, value)
    return build_config(sections, overrides)


def n_lines(path: str) -> int:
    """The number of lines of a file that are not blank. Raises InputError if it cannot be read."""
    try:
        return sum(1 for line in read_file(Path(path)).splitlines() if line.strip())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
