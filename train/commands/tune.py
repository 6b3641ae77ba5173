"""`jaxllm tune`: trains on from weights that exist, with a config made for it.

It is `jaxllm train` with [init], [tune] and [lora]: `--resume`, sweeps and all that reads a run work alike.
"""

import argparse
import math
from typing import Any

from jaxllm.utils.errors import InputError

from ..config import RunConfig, row_length
from ..config_file import build_config, parse_override
from ..ideas import load_code, resolve
from ..inputs import Prepared
from ..runs.folder import RunFolder
from ..runs.load import load_run
from ..tune.base import open_base
from ..tune.config import InitConfig
from .options import Parser, add_code, add_overrides
from .train import start

BATCH = 8  # examples of a step
EPOCHS = 3  # of examples; a text may be long, so it is read for `train.steps`
PRETRAIN_ROW = 512  # tokens of a row of text; a whole context may need more memory than there is
RATES = {True: 5e-4, False: 5e-5}  # learning rates, with adapters and without
KINDS = ("instruct", "classify", "prefer", "pretrain")
Sections = dict[str, dict[str, Any]]


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm tune runs/smollm2 examples.jsonl --out runs/mine --set lora.rank=8")
    parser.add_argument("base", metavar="BASE", help="a run, or what `jaxllm import` takes")
    parser.add_argument("data", metavar="DATA", help="a file of examples, JSON lines; for --kind pretrain any text")
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder to make")
    parser.add_argument("--kind", choices=KINDS, default="instruct", help="what an example is; default instruct")
    parser.add_argument(
        "--epochs", type=int, metavar="N",
        help=f"passes over the data, in the place of train.steps; default {EPOCHS} over examples",
    )  # fmt: skip
    add_overrides(parser)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Make the config, print it, and train."""
    a = arguments
    if a.epochs is not None and a.epochs < 1:
        raise InputError(f"--epochs is {a.epochs}, but it must be at least 1.")
    for field, by in (("init.from", "BASE"), ("data.source", "DATA")):
        if field in named_in(a.overrides):
            raise InputError(f"{field} is given by --set, but here it is given by {by}; leave --set {field} out.")
    if a.epochs is not None and "train.steps" in named_in(a.overrides):
        raise InputError(f"--epochs is {a.epochs}, but train.steps is given as well; leave one of them out.")
    code, sections = load_code(a.code), first_sections(a.base, a.data, a.kind)
    undecided = {"optimizer": {"warmup_steps": 0, "min_learning_rate": 0.0}} | every_evaluation(a.overrides)
    given = resolve(build_config(sections | undecided, a.overrides), code)
    check_rank(given, a.overrides)
    epochs = a.epochs or (None if a.kind == "pretrain" or "train.steps" in named_in(a.overrides) else EPOCHS)

    def planned(inputs: Prepared) -> RunConfig:
        steps = given.train.steps
        if epochs:
            steps = max(math.ceil(epochs * n_rows(inputs) / given.train.batch_size), 2)
        return resolve(scheduled(sections, a.overrides, given, steps, inputs.config.lora.rank > 0), code)

    start(RunFolder(a.out), given, None, code, planned=planned)


def every_evaluation(overrides: list[str]) -> Sections:
    """`checkpoint.every` as `eval.every` is given, of which it must be a multiple: neither is decided yet."""
    found = [parse_override(one)[2] for one in overrides if one.partition("=")[0].strip() == "eval.every"]
    return {"checkpoint": {"every": found[-1]}} if found else {}


def check_rank(given: RunConfig, overrides: list[str]) -> None:
    """Raises InputError where something is said of adapters, but not that there are any."""
    of_lora = sorted(name for name in named_in(overrides) if name.startswith("lora.") and name != "lora.rank")
    if of_lora and not given.lora.rank and not given.init.adapter:
        raise InputError(f"{of_lora[0]} is given, but lora.rank is 0, which means no adapters; set lora.rank.")


def first_sections(base: str, data: str, kind: str) -> Sections:
    """The sections of a tuning's config that its data do not decide."""
    row = {"window": min(PRETRAIN_ROW, context_of(base))} if kind == "pretrain" else {}
    return {
        "init": {"from": base}, "data": {"source": data}, "tune": {"kind": kind}, "eval": {"sample_tokens": 48},
        "train": {"batch_size": BATCH, **row},
    }  # fmt: skip


def context_of(base: str) -> int:
    """The context length of a run, or of what `jaxllm import` takes. Raises InputError."""
    folder = RunFolder(base)
    model = folder.read_config().model if folder.config.exists() else open_base(InitConfig(base), load_run).config
    return model.context_length


def scheduled(sections: Sections, overrides: list[str], given: RunConfig, steps: int, adapters: bool) -> RunConfig:
    """The config of a tuning of so many steps; `given` is that of the overrides alone. Raises InputError."""
    chosen = named_in(overrides)
    rate = given.optimizer.learning_rate if "optimizer.learning_rate" in chosen else RATES[adapters]
    every = given.eval.every if "eval.every" in chosen else max(steps // 4, 1)
    derived: Sections = {
        "train": {"steps": steps},
        "optimizer": {"learning_rate": rate, "min_learning_rate": rate / 10, "warmup_steps": steps // 10},
        "eval": {"every": every},
        "checkpoint": {"every": every if given.checkpoint.keep_best else steps},
    }  # fmt: skip
    return build_config({n: {**sections.get(n, {}), **derived.get(n, {})} for n in [*sections, *derived]}, overrides)


def named_in(overrides: list[str]) -> set[str]:
    """The fields that overrides give."""
    return {override.partition("=")[0].strip() for override in overrides}


def n_rows(inputs: Prepared) -> int:
    """How many rows of a batch the training data are."""
    if inputs.examples:
        return len(inputs.examples.train.rows)
    return len(inputs.train_ids) // row_length(inputs.model, inputs.config.train)
