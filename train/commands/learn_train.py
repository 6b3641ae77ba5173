"""`jaxllm learn train`: a model of the learner's own functions, and ours for what they have not written yet."""

import argparse

from flax import linen as nn

from ..ideas import Code, load_code, resolve
from ..ideas_check import check_ideas
from ..learn.bridge import Bridge
from ..learn.chosen import Chosen, choose, verdicts_of
from ..learn.folder import LearnFolder
from ..learn.loading import check_unchanged, errors_of
from ..learn.tie import write
from ..learn.training import check_tree, config_of, whose, with_theirs
from ..products import check_products
from ..products import choose as choose_products
from ..runs.folder import RunFolder
from ..runs.sinks import check_sink
from .options import Parser, add_overrides
from .train import prepare_backend, train_and_report


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm learn train --dir course --out runs/mine")
    parser.add_argument("--dir", default=".", metavar="DIR", help="folder of the course; default: this one")
    parser.add_argument(
        "--out", default="runs/learned", metavar="RUN", help="run folder to make; default: runs/learned"
    )
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Choose the pieces that are right, say which they are, and train with them."""
    folder, out = LearnFolder.open(arguments.dir), RunFolder(arguments.out)
    out.check_new()
    chosen = choose(folder, verdicts_of(folder))
    code = load_code(str(write(folder.path, chosen.used)))
    assert code is not None
    bridge: Bridge = code.names["bridge"]
    with errors_of(folder.path), nn.intercept_methods(bridge.intercept):
        try:
            train(bridge, chosen, code, out, arguments.overrides)
        except Exception:
            bridge.watch.check()  # what ended the run, if an error of theirs did
            raise
    check_unchanged(folder, chosen.used, "this training began, which did not see the change")


def train(bridge: Bridge, chosen: Chosen, code: Code, out: RunFolder, overrides: list[str]) -> None:
    """Train a new run, as `jaxllm train` does, and say before whose the pieces are."""
    named = code if bridge.fields else None  # a config that names nothing of it takes no code
    config = resolve(config_of(bridge, overrides), named)
    prepare_backend(config)
    check_products(config.train)
    check_sink(config.train.sink)
    inputs = with_theirs(bridge, config)
    check_tree(inputs.model)
    check_ideas(inputs.config, inputs.model)
    print("\n".join(whose(chosen, bridge.language, str(inputs.config.tokenizer.kind))))
    with out.locked():
        out.check_new()  # again, because preparing may have taken long
        choice = choose_products(inputs.model, config.train)
        inputs = inputs.computing_with(choice.name)
        out.create(inputs.config, inputs.tokenizer, named)
        train_and_report(inputs, out, 0, None, choice)
