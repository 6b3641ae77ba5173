"""`jaxllm describe`: the parameters of a config or a run, what updates each, and what training costs."""

import argparse
import json
from pathlib import Path

from jaxllm.tokenizers import load_tokenizer
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..config_file import load_config
from ..ideas import Code, check_same_code, load_code, resolve
from ..ideas_check import check_ideas
from ..inputs import known_vocabulary, model_without_text
from ..outputs import check_output
from ..runs.checkpoint import saved_steps
from ..runs.folder import RunFolder
from ..runs.load import model_of
from .describe_report import Described, figures, report
from .options import Parser, add_code, add_overrides


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm describe configs/gpt2-124m.toml --set optimizer.name=muon")
    parser.add_argument("path", metavar="CONFIG.toml|RUN", help="a config file or a run folder")
    add_overrides(parser)
    add_code(parser)
    parser.add_argument("--json", metavar="FILE.json", help="write all figures, with a row for every parameter")


def run(arguments: argparse.Namespace) -> None:
    """Print the description, and write the figures where asked for."""
    a = arguments
    check_output("--json", a.json, (".json",))
    code = load_code(a.code)
    described = of_run(a.path, a.overrides, code) if Path(a.path).is_dir() else of_config(a.path, a.overrides, code)
    check_ideas(described.config, described.model)
    content = figures(described)
    print("\n".join(report(described, content)))
    if a.json:
        replace_file(Path(a.json), f"{json.dumps(content, indent=1, allow_nan=False)}\n".encode())


def of_config(path: str, overrides: list[str], code: Code | None) -> Described:
    """What a config file describes; no text is read. Raises InputError for a wrong config."""
    config = resolve(load_config(path, overrides), code)
    known = config.init.from_ is not None or known_vocabulary(config) is not None
    return Described(path, "not trained", config, model_without_text(config), known)


def of_run(path: str, overrides: list[str], code: Code | None) -> Described:
    """What a run folder describes; its parameters are not read.

    Raises InputError if it is no run, and for overrides, because a run has its config.
    """
    if overrides:
        raise InputError(
            f"--set {overrides[0]} would change the config that {path} was trained with; leave it out, or name a "
            "config file."
        )
    folder = RunFolder(path)
    check_same_code(code, folder.code)
    config, tokenizer = resolve(folder.read_config(), code), load_tokenizer(folder.tokenizer)
    steps = ", ".join(f"{step:,}" for step in saved_steps(folder.checkpoints))
    state = f"saved at step {steps} of {config.train.steps:,}" if steps else "no checkpoint yet"
    if folder.weights.exists():
        state = "imported, without steps; optimizer and costs are those of its config"
    return Described(
        path, f"{state}, {tokenizer.kind} tokenizer", config, model_of(config, tokenizer).config, vocabulary_known=True
    )
