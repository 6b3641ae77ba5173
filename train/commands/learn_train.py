"""`jaxllm learn train`: a model of the learner's own functions."""

import argparse

from .options import Parser, add_overrides

ABOUT = """A model of characters learns the reference documentation inside Python. In JAX it has 3 blocks of width 128
and 1,500 steps of 1,024 tokens. NumPy and PyTorch are called back from JAX's program: there it has 2 blocks of
width 64 and 2,000 steps of 384 tokens, and ends after 150 s of training; --set train.seconds=600 gives it longer.

A piece that is not right yet, or too slow to train with, is ours. `learned.py` in DIR ties the pieces to the run:
  jaxllm generate RUN --prompt "The " --code DIR/learned.py
"""


def add_training(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm learn train --dir my-llm --out runs/mine")
    parser.description = f"{parser.description}\n\n{ABOUT}"
    parser.add_argument("--dir", default=".", metavar="DIR", help="the folder of the course; default: this one")
    parser.add_argument(
        "--out", default="runs/learned", metavar="RUN", help="run folder to make; default: runs/learned"
    )
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Train. The other actions of `jaxllm learn` need no JAX, so it is imported and set up here."""
    from ..runtime.allocator import compute_in_this_thread
    from ..runtime.compile_cache import keep_compiled

    keep_compiled()
    compute_in_this_thread()
    from .learn_training import train_pieces

    train_pieces(arguments.dir, arguments.out, arguments.overrides)
