"""`jaxllm classify`: labels a text by a run that was tuned to classify, with the probability of each label."""

import argparse
from collections.abc import Sequence

import jax
import numpy as np

from jaxllm.layers import softmax
from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import visible

from ..ideas import load_code
from ..nonfinite import check_computed
from ..pieces import columns
from ..runs.load import TrainedRun, load_run
from ..tune.examples import LabelledText
from ..tune.rendered import Renderer
from ..writer import check_length
from .options import Parser, add_code, add_run


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, 'jaxllm classify runs/mine --text "You have won a prize"')
    add_run(parser)
    parser.add_argument("--text", required=True, metavar="TEXT")
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the labels, the most likely first."""
    check_length("--text", arguments.text)
    trained = load_run(arguments.path, arguments.step, code=load_code(arguments.code))
    probabilities = label_probabilities(trained, arguments.text)
    check_computed(probabilities, arguments.path, trained.params)
    print("\n".join(table(trained.config.tune.labels or (), probabilities)))


def label_probabilities(trained: TrainedRun, text: str) -> np.ndarray:
    """The probability of each label, [C] float32, read at the text's last token.

    Raises InputError for a run that does not classify, and for a text without tokens or longer than the context.
    """
    context = trained.model.config.context_length
    if trained.config.tune.labels is None:
        raise InputError(
            "this run was not tuned to classify, so that it has no labels; name one of `jaxllm tune --kind classify`."
        )
    if not text.strip():
        raise InputError("--text is empty, but a label is read from a text; give one.")
    ids = Renderer(trained.tokenizer, trained.chat).text(LabelledText("--text", text, ""), 0).inputs
    if len(ids) > context:
        raise InputError(f"--text has {len(ids):,} tokens, more than the model's context of {context:,}; shorten it.")
    logits = jax.jit(trained.model.apply)({"params": trained.params}, ids[None])
    return np.asarray(softmax(logits[0, -1]))


def table(labels: Sequence[str], probabilities: np.ndarray) -> list[str]:
    """A line for each label with its probability, the most likely first; equal ones in the order of the labels."""
    names = [visible(label.encode()) for label in labels]
    width = max(map(columns, names), default=0)
    return [
        f"{names[i]}{' ' * (width - columns(names[i]))}  {probabilities[i]:.4f}"
        for i in np.argsort(-probabilities, kind="stable")
    ]
