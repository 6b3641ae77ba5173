"""`jaxllm learn show`: one page with every number that a model computes for a sentence, and how each was made."""

import argparse
from pathlib import Path
from typing import Any

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file

from ..learn.folder import SETTINGS, LearnFolder, piece_name
from ..outputs import check_output
from .options import Parser, add_code, add_step

TEXT = "Please buy an apple and an orange"


def add_showing(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, f'jaxllm learn show multi_head_attention --text "{TEXT}" --out page.html')
    parser.add_argument("piece", nargs="?", metavar="PIECE", help="where the page opens; default: at the tokens")
    parser.add_argument("--text", default=TEXT, help=f'a sentence; default "{TEXT}"')
    parser.add_argument("--out", default="page.html", metavar="FILE.html", help="default page.html")
    parser.add_argument(
        "--dir", metavar="DIR", help="folder of the course, whose functions compute; default: this one, if it is one"
    )
    parser.add_argument(
        "--run", dest="path", metavar="RUN", help="show this run's model; default: a small one, trained for the page"
    )
    add_step(parser)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    from ..learn.page.page import show_page
    from ..writer import check_length

    path, text = arguments.path, arguments.text
    piece = None if arguments.piece is None else piece_name(arguments.piece)
    if path is None and (arguments.step or arguments.code):
        raise InputError("--step and --code are of a run, but there is no --run; name its folder.")
    check_output("--out", arguments.out, (".html",))
    check_length("--text", text)
    folder = _folder(arguments.dir)
    _prepare_jax()
    model = _model(path, text, arguments.step, arguments.code)
    which = f"the model of {path}" if path else "a small model, trained for this page"
    page = show_page(model, text, _about(which, model, folder), piece, folder).encode()
    replace_file(Path(arguments.out), page)
    print(f"{arguments.out}: every number of {which}, {len(page) / 1e6:.2f} MB; open it in a browser")


def _folder(path: str | None) -> LearnFolder | None:
    """The learner's folder; None where none was named and this is none."""
    return LearnFolder.open(path or ".") if path or Path(SETTINGS).is_file() else None


def _prepare_jax() -> None:
    from ..runtime.compile_cache import keep_compiled
    from ..runtime.jax_check import check_jax

    keep_compiled()
    check_jax()


def _model(path: str | None, text: str, step: str | None, code: str | None) -> Any:
    from ..ideas import load_code
    from ..learn.page.model import Shown, small_model
    from ..learn.page.values import adamw_of
    from ..runs.load import load_run

    if path is None:
        return small_model(text)
    trained = load_run(path, step, code=load_code(code))
    return Shown(trained.model, trained.params, trained.tokenizer, adamw_of(trained.config.optimizer))


def _about(which: str, shown: Any, folder: LearnFolder | None) -> str:
    """What the page says of itself at its top."""
    from jaxllm.gpt import count_parameters

    config, n = shown.model.config, count_parameters(shown.model.config)
    yours = f" Your functions in {folder.path.resolve().name} compute what they can." if folder else ""
    return (
        f"Every number of {which}: {config.n_layers} blocks of {config.n_heads} heads, {config.d_model} features, "
        f"{config.vocab_size:,} tokens, {n:,} parameters.{yours} "
        "Point at a cell, or use the arrow keys, to see what made it."
    )
