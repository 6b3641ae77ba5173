"""`jaxllm learn`: write the pieces of a language model, and be told what is wrong with each."""

import argparse
import secrets
import shlex
from collections.abc import Sequence

from jaxllm.utils.errors import InputError, shown

from . import learn_show, learn_train
from .options import Parser, add_parser

LANGUAGES = ("numpy", "jax", "torch")


def add_options(parser: Parser) -> None:
    """The options of each of the commands."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_start(add_parser(commands, "start", "write the files of the course, with empty bodies"))
    _add_check(add_parser(commands, "check", "run the pieces, and say which mistake it is where one is wrong"))
    learn_train.add_training(add_parser(commands, "train", "train a model of your pieces; those not written are ours"))
    learn_show.add_showing(add_parser(commands, "show", "write a page with every number that a model makes of a text"))


def _add_start(parser: Parser) -> None:
    parser.runs(run_start, "jaxllm learn start my-llm --language numpy")
    parser.add_argument("dir", metavar="DIR", help="folder to make; in one that exists, only missing files are written")
    parser.add_argument("--language", choices=LANGUAGES, help="what the functions are written in; default numpy")


def _add_check(parser: Parser) -> None:
    parser.runs(run_check, "jaxllm learn check causal_attention --dir my-llm")
    parser.add_argument("piece", nargs="?", metavar="PIECE", help="name or number of a piece; default: all of them")
    add_dir(parser)
    parser.add_argument("--seed", type=int, metavar="S", help="makes the inputs of an earlier check again")
    parser.add_argument(
        "--seconds", type=float, metavar="N", help="time for the calls of one function; default 10 to 60"
    )


def add_dir(parser: Parser) -> None:
    """`--dir`, the learner's folder."""
    parser.add_argument("--dir", default=".", metavar="DIR", help="the folder of the course; default: this one")


def run_start(arguments: argparse.Namespace) -> None:
    """Write the files, and say which were there."""
    from ..learn.start import start

    done = start(arguments.dir, arguments.language)
    n = len(done.files)
    print(f"{n} file{'s' * (n != 1)} written to {done.folder.path}, in {done.folder.language}.")
    if done.kept:
        missing = f" Those that it had not: {', '.join(done.files)}." if done.files else " Nothing was missing."
        print(f"{len(done.kept)} files were there already and are kept as they are.{missing}")
    print(f"Begin with the first, then: jaxllm learn check 1 --dir {shlex.quote(str(done.folder.path))}")


def run_check(arguments: argparse.Namespace) -> int:
    """Check one piece with those that it imports, or all, and print what was found."""
    from rich.console import Console

    from ..learn.checking.check import check
    from ..learn.checking.report import map_lines, piece_lines
    from ..learn.course import ORDER
    from ..learn.folder import LearnFolder, piece_name

    seed = arguments.seed
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError(f"--seed {seed} is not between 0 and 2^63.")
    if arguments.seconds is not None and not 0 < arguments.seconds <= 3600:
        raise InputError(f"--seconds {shown(arguments.seconds)} is not between 0 and 3600.")
    seed = secrets.randbelow(2**31) if seed is None else seed
    folder = LearnFolder.open(arguments.dir)
    names: Sequence[str] = ORDER
    chosen = None if arguments.piece is None else piece_name(arguments.piece)
    if chosen:
        folder.require(chosen)
        names = [*folder.needed(chosen), chosen]
    checked = check(folder, names, seed, arguments.seconds)
    console = Console(highlight=False, soft_wrap=True)
    for line in map_lines(checked):
        console.print(line)
    by_name = {one.piece.name: one for one in checked}
    for one in checked:
        for i, line in enumerate(piece_lines(one, by_name, one.piece.name == chosen)):
            console.print("\n" if not i else "", line, sep="", end="\n")
    console.print(f"The inputs were made from --seed {seed}.")
    return int(any(one.is_faulty for one in checked))
