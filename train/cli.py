"""The command line: `jaxllm COMMAND ...`.

Exit codes: 0 done, 1 failed or diverged, 2 wrong input, 130 interrupted, 141 the reader of the output went away.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from jaxllm import __version__
from jaxllm.errors import InputError
from train.errors import DivergedError

Run = Callable[[argparse.Namespace], int | None]


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        code = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"jaxllm {arguments.command}: {error}", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"jaxllm {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"jaxllm {arguments.command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `jaxllm ... | head`: not a word, as other programs do it
        _drop_output()
        return 141
    except OSError as error:
        _drop_output()
        print(f"jaxllm {arguments.command}: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
        return 1


def _drop_output() -> None:
    """Python flushes standard output once more at exit; what cannot be written goes nowhere, without a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def build_parser() -> Parser:
    """All commands and their options."""
    parser = Parser(prog="jaxllm", description="A large language model from scratch, in JAX and Flax.")
    parser.add_argument("--version", action="version", version=f"jaxllm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    train = _command(
        commands, "train", _train, "train a model as a config file says",
        "jaxllm train configs/quickstart.toml --out runs/first --set train.steps=500",
    )  # fmt: skip
    train.add_argument("config", nargs="?", metavar="CONFIG.toml", help="may be left out with --resume")
    train.add_argument("--out", metavar="RUN", help="run folder to make (default: runs/NAME of the config)")
    train.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="section.key=value",
        help="override a field of the config; may be given again",
    )  # fmt: skip
    train.add_argument("--resume", action="store_true", help="continue the run in RUN from its newest checkpoint")

    generate = _command(
        commands, "generate", _generate, "continue a prompt with a trained model",
        'jaxllm generate runs/first --prompt "The statement" --max-new-tokens 100 --top-k 50',
    )  # fmt: skip
    generate.add_argument("path", metavar="RUN", help="run folder")
    generate.add_argument("--prompt", required=True, metavar="TEXT")
    generate.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="default 200")
    generate.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: most likely; default 0.8")
    generate.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely tokens")
    generate.add_argument("--top-p", type=float, metavar="P", help="draw from the fewest tokens that reach P")
    generate.add_argument("--min-p", type=float, metavar="P", help="leave out tokens below P times the likeliest")
    generate.add_argument("--seed", type=int, default=0, metavar="S", help="default 0; the same seed, the same text")

    evaluate = _command(
        commands, "evaluate", _evaluate, "validation loss, perplexity and bits per byte of a trained model",
        "jaxllm evaluate runs/first --data my-text.txt",
    )  # fmt: skip
    evaluate.add_argument("path", metavar="RUN", help="run folder")
    evaluate.add_argument("--data", metavar="PATH", help="all of this text instead of the run's validation split")

    compare = _command(
        commands, "compare", _compare, "every number of a model against the NumPy reference; exit 1 beyond tolerance",
        "jaxllm compare configs/gpt2-124m.toml --dtype float32 --out error.png",
    )  # fmt: skip
    compare.add_argument(
        "path", nargs="?", metavar="CONFIG.toml|RUN",
        help="a config (random weights) or a run folder (its newest checkpoint); default: a small GPT",
    )  # fmt: skip
    compare.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float64"), help="of the computation; default: the config's"
    )
    compare.add_argument("--batch-size", type=int, default=1, metavar="B", help="windows to compare on; default 1")
    compare.add_argument("--length", type=int, metavar="T", help="tokens a window; default: the context, at most 128")
    compare.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE.json",
        help="all rows as JSON: into a file, or instead of the table",
    )
    compare.add_argument("--out", metavar="PICTURE.png", help="draw error against depth")
    return parser


def _command(
    commands: "argparse._SubParsersAction[Parser]", name: str, run: Run, help: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=help, description=help.capitalize() + ".", epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(run=run)
    return parser


# The commands import what they need when they run, so that --help and a mistyped option answer at once.


def _train(arguments: argparse.Namespace) -> None:
    from train.commands import train_command

    train_command(arguments.config, arguments.out, arguments.overrides, arguments.resume)


def _generate(arguments: argparse.Namespace) -> None:
    from train.commands import generate_command

    generate_command(
        arguments.path, arguments.prompt, arguments.max_new_tokens, arguments.temperature,
        arguments.top_k, arguments.top_p, arguments.min_p, arguments.seed,
    )  # fmt: skip


def _evaluate(arguments: argparse.Namespace) -> None:
    from train.commands import evaluate_command

    evaluate_command(arguments.path, arguments.data)


def _compare(arguments: argparse.Namespace) -> int:
    from train.compare import compare_command

    within = compare_command(
        arguments.path, arguments.dtype, arguments.batch_size, arguments.length, arguments.json, arguments.out
    )
    return 0 if within else 1
