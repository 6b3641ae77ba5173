"""`jaxllm merge`: adds the adapters of a run to its weights, and proves that this keeps what was tuned.

The result is a run as `jaxllm import` leaves it. It appears only if the proof succeeds, which reads it back.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from flax.traverse_util import flatten_dict

from jaxllm.gpt import count_parameters
from jaxllm.lora import LoraKernel, merge
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.utils.errors import InputError

from ..config import ModelConfig, RunConfig, TrainConfig
from ..ideas import load_code
from ..inputs import prepare
from ..outputs import check_new_folder, new_folder
from ..runs.folder import RunFolder
from ..runs.imported_weights import MERGED, read_weights, write_weights
from ..runs.load import TrainedRun, load_run
from ..tune.config import TuneConfig
from ..tune.merge import check_finite, prove, rounded_to
from ..tune.merge_rows import validation_rows
from .options import Parser, add_code, add_run

DTYPES = ("float32", "bfloat16")


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm merge runs/mine --out runs/merged")
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="RUN2", help="run folder to make")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the stored weights; default float32")
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the run folder, which appears when its weights are proven; raises RunError if they are not."""
    a, out = arguments, Path(arguments.out)
    check_new_folder(out)
    code = load_code(a.code)
    tuned = load_run(a.path, a.step, code=code, adapters=True)
    config = tuned.model.config
    n_adapted = sum(isinstance(leaf, LoraKernel) for leaf in flatten_dict(tuned.params).values())
    if not n_adapted:
        raise InputError(f"{a.path} has no adapters, so its weights are whole already; export or use it as it is.")
    check_finite(tuned.params)
    rows = validation_rows(prepare(tuned.config, tuned.tokenizer, tuned.chat))
    with new_folder(out) as temporary:
        folder = RunFolder(temporary)
        folder.create(merged_config(tuned), tuned.tokenizer, code, tuned.chat or ChatFormat())
        write_weights(folder.weights, rounded_to(merge(tuned.params), a.dtype), f"{MERGED}{a.path}, step {tuned.step}")
        proof = prove(config, tuned.params, read_weights(folder.weights, config), rows)
        proof.check(a.dtype)
    print("\n".join(proof.lines(a.dtype, "label" if config.n_classes else "token")))
    print(f"{n_adapted} adapters merged into {count_parameters(config):,} parameters: {a.out}")


def merged_config(tuned: TrainedRun) -> RunConfig:
    """The config of the merged run: its model, and of a classifier its labels."""
    model = ModelConfig(**asdict(tuned.model.config))
    labels = tuned.config.tune.labels
    tune = TuneConfig() if labels is None else TuneConfig("classify", labels=labels)
    train = TrainConfig(batch_size=1, code_sha256=tuned.config.train.code_sha256)
    return RunConfig(model=model, train=train, tune=tune)
