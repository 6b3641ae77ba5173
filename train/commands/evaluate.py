"""`jaxllm evaluate`: validation loss, perplexity and bits per byte of a trained model, or its answers to questions."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.config import WEIGHTS
from jaxllm.data import read_source
from jaxllm.data.id_sequences import IdSequence
from jaxllm.data.shards import is_prepared
from jaxllm.fast.quantised_weights import pack
from jaxllm.tokenizers.listing import visible
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config import DataConfig
from ..eval_weights import weights_name
from ..evaluate import evaluation_rows, evaluator, score
from ..ideas import load_code
from ..inputs import prepare
from ..nonfinite import check_computed
from ..outputs import check_output
from ..runs.load import TrainedRun, load_run
from ..tasks.choices import read_questions
from ..tasks.model import TaskModel
from .evaluate_choices import choices_figures, choices_table, score_choices
from .evaluate_context import check_context, figures, losses_by_context, table
from .evaluate_context_plot import draw_context
from .evaluate_examples import check_plain, evaluate_examples
from .options import Parser, add_code, add_run


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm evaluate runs/first --data my-text.txt")
    add_run(parser)
    parser.add_argument(
        "--data", metavar="PATH",
        help="evaluate on all of this text, or on the validation split of prepared data; default: the run's data",
    )  # fmt: skip
    parser.add_argument("--field", metavar="NAME", help="key of the text in JSON lines; default: the run's data.field")
    parser.add_argument("--weights", choices=WEIGHTS, help="type to hold the weights in; default: as they were trained")
    parser.add_argument(
        "--context", metavar="PICTURE",
        help="also measure the loss by position in the window and by context length, and draw it: a .png file",
    )  # fmt: skip
    parser.add_argument(
        "--choices", metavar="FILE.jsonl",
        help='answer these questions instead: a line is {"query": TEXT, "choices": [TEXT, ...], "answer": NUMBER}',
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="with --context or --choices: write the figures")
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the scores."""
    if arguments.choices is not None:
        answer_questions(arguments)
        return
    path, data, field, weights = arguments.path, arguments.data, arguments.field, arguments.weights
    if field is not None and data is None:
        raise InputError(f"--field is {field!r}, but there is no --data whose text it names; give both.")
    if field is not None and data is not None and is_prepared(data):
        raise InputError(f"--field is {field!r}, but {data} is prepared data, which holds tokens; leave it out.")
    if arguments.json and not arguments.context:
        raise InputError(f"--json {arguments.json} is for the figures of --context or --choices; give one of them.")
    check_output("--context", arguments.context, (".png", ".svg", ".pdf"))
    check_output("--json", arguments.json, (".json",))
    trained = load_run(path, arguments.step, code=load_code(arguments.code))
    if trained.imported and trained.config.tune.labels is not None:
        raise InputError(f"{path} was merged and has no examples; evaluate the run that it was merged from.")
    if data is None and trained.imported:
        raise InputError(f"{path} was imported without the text that it was trained on; name a text with --data.")
    if trained.config.tune.kind != "pretrain":
        check_plain(trained.config.tune.kind, data=data, context=arguments.context, weights=weights)
        print("\n".join(evaluate_examples(path, trained)))
        return
    ids = evaluation_ids(trained, data, field)
    begin, tokenizer = trained.begin_token if trained.imported else None, trained.tokenizer
    if arguments.context:
        check_context(ids, trained.model.config.context_length, begin)
    params = trained.params if weights is None else pack(trained.params, weights)
    loss = evaluator(trained.model, trained.config, begin=begin)(params, ids)
    check_computed(loss, path, trained.params)
    scores = score(loss, ids, tokenizer, begin)
    bits = "not defined for a word tokenizer" if scores.bits_per_byte is None else f"{scores.bits_per_byte:.4f}"
    print(f"step             {trained.step:,}")
    print(f"tokens           {scores.n_targets:,}")
    if trained.imported:
        first = "the text itself" if begin is None else visible(tokenizer.decode_bytes([begin]))
        print(f"each window      begins with {first}")
    if averaged := weights_name(trained.config):
        print(f"weights          {averaged!s}")
    print(f"validation loss  {scores.loss:.4f} nats per token")
    print(f"perplexity       {scores.perplexity:.4f}")
    print(f"bits per byte    {bits}")
    if arguments.context:
        show_context(trained, params, ids, arguments)


def show_context(trained: TrainedRun, params: Any, ids: IdSequence, arguments: argparse.Namespace) -> None:
    """Print, draw and write what the context is worth."""
    batch_size = evaluation_rows(trained.config)
    losses = losses_by_context(trained.model, params, ids, batch_size, trained.begin_token)
    check_computed([one.loss for one in losses.values() if one.counts.any()], arguments.path, trained.params)
    print(f"\n{table(losses)}")
    draw_context(losses, f"{arguments.path}, step {trained.step:,}", Path(arguments.context))
    write_figures(arguments, trained.step, figures(losses))


def answer_questions(arguments: argparse.Namespace) -> None:
    """Print, and write, how often the model takes the right choice."""
    for option in ("data", "field", "context"):
        if getattr(arguments, option) is not None:
            raise InputError(f"--{option} is for the loss of a text, which --choices does not compute; leave one out.")
    check_output("--json", arguments.json, (".json",))
    questions = read_questions(arguments.choices)
    trained = load_run(arguments.path, arguments.step, code=load_code(arguments.code))
    params = trained.params if arguments.weights is None else pack(trained.params, arguments.weights)
    model = TaskModel(arguments.path, trained, params)
    scored = score_choices(model, questions)
    print(f"step             {trained.step:,}")
    print(choices_table(scored, model.context_length))
    write_figures(arguments, trained.step, choices_figures(scored))


def write_figures(arguments: argparse.Namespace, step: int, content: dict[str, Any]) -> None:
    """Write the figures into the file of `--json`, if it was given."""
    if arguments.json:
        text = json.dumps({"run": arguments.path, "step": step, **content}, indent=1, allow_nan=False)
        replace_file(Path(arguments.json), f"{text}\n".encode())


def evaluation_ids(trained: TrainedRun, data: str | None, field: str | None) -> IdSequence:
    """The validation split of the run or of prepared data, or all ids of a text.

    Raises InputError for a text of too few tokens.
    """
    config, tokenizer = trained.config, trained.tokenizer
    if data is None:
        return prepare(config, tokenizer).validation_ids
    if is_prepared(data):
        return prepare(replace(config, data=DataConfig(data)), tokenizer).validation_ids
    ids = np.asarray(tokenizer.encode(read_source(data, config.data.field if field is None else field)), np.int32)
    if len(ids) < (2 if trained.begin_token is None else 1):
        raise InputError(f"{data} has {len(ids)} tokens, but the loss needs a token to predict from; give more text.")
    return ids
