"""`jaxllm learn show`: one page with every number that a model computes for a sentence, and how each was made."""

import argparse
from pathlib import Path

from jaxllm.gpt import count_parameters
from jaxllm.utils.errors import InputError, nearest, shown
from jaxllm.utils.files import replace_file

from ..ideas import load_code
from ..learn.course import ORDER
from ..learn.page import show_page
from ..learn.page_model import Shown, small_model
from ..learn.page_values import adamw_of
from ..outputs import check_output
from ..runs.load import load_run
from ..writer import check_length
from .options import Parser, add_code, add_step

TEXT = "Please buy an apple and an orange"


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, f'jaxllm learn show multi_head_attention --text "{TEXT}" --out page.html')
    parser.add_argument("piece", nargs="?", metavar="PIECE", help="where the page opens; default: at the tokens")
    parser.add_argument("--text", default=TEXT, help=f'a sentence; default "{TEXT}"')
    parser.add_argument("--out", default="page.html", metavar="FILE.html", help="default page.html")
    parser.add_argument(
        "--run", dest="path", metavar="RUN", help="show the model of this run folder; default: a small one, trained here"
    )
    add_step(parser)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the page."""
    piece, path, text = arguments.piece, arguments.path, arguments.text
    if piece is not None and piece not in ORDER:
        raise InputError(f"PIECE is {shown(piece)}, but no piece has that name; {nearest(piece, ORDER)}")
    if path is None and (arguments.step or arguments.code):
        raise InputError("--step and --code are of a run, but there is no --run; name its folder.")
    check_output("--out", arguments.out, (".html",))
    check_length("--text", text)
    model = small_model(text) if path is None else _of_run(path, arguments.step, arguments.code)
    config = model.model.config
    n = count_parameters(config)
    which = f"the model of {path}" if path else "a small model, trained for this page"
    about = (
        f"Every number of {which}: {config.n_layers} blocks of {config.n_heads} heads, {config.d_model} features, "
        f"{config.vocab_size:,} tokens, {n:,} parameters. Point at a cell, or use the arrow keys, to see what made it."
    )
    page = show_page(model, text, about, piece)
    replace_file(Path(arguments.out), page.encode())
    print(f"{arguments.out}: every number of {which}, {len(page.encode()) / 1e6:.2f} MB; open it in a browser")


def _of_run(path: str, step: str | None, code: str | None) -> Shown:
    trained = load_run(path, step, code=load_code(code))
    return Shown(trained.model, trained.params, trained.tokenizer, adamw_of(trained.config.optimizer))
