"""The command line: `jaxllm COMMAND ...`.

Exit codes: 0 done, 1 failed or diverged, 2 wrong input, 130 interrupted, 143 ended by SIGTERM, 141 the reader of the
output went away.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from jaxllm import __version__
from jaxllm.config import WEIGHTS
from jaxllm.utils.errors import InputError, NonFiniteError

from .commands.bench import add_bench_generate
from .commands.data_cli import add_data_commands, add_field
from .commands.look_cli import add_look_commands
from .commands.options import Parser, add_command, add_overrides
from .commands.pretrained_cli import add_writing_commands
from .errors import RunError, Stopped
from .notes import notes_printed
from .runtime.allocator import compute_in_this_thread, restart_with_allocator

WITHOUT_JAX = ("tokenizer", "data")
LONG = ("train", "bench", "generate", "chat")  # worth a new start with memory in large pages


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    _let_all_characters_through()
    arguments = build_parser().parse_args(argv)
    if argv is None and arguments.command in LONG:  # the program itself, not a call of this
        restart_with_allocator()
    try:
        if arguments.command not in WITHOUT_JAX:
            _prepare_jax(arguments.command)
        with notes_printed():
            code = arguments.run(arguments) or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        print(f"jaxllm {arguments.command}: {error}", file=sys.stderr)
        return 2
    except (RunError, NonFiniteError) as error:
        print(f"jaxllm {arguments.command}: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(f"jaxllm {arguments.command}: {stopped}", file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print(f"jaxllm {arguments.command}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `jaxllm ... | head`: not a word, as other programs do it
        _drop_output()
        return 141
    except (MemoryError, RuntimeError) as error:  # JAX's errors are RuntimeErrors
        if not (said := _out_of_memory(error)):
            raise
        print(f"jaxllm {arguments.command}: {said}", file=sys.stderr)
        return 1
    except OSError as error:
        _drop_output()
        print(f"jaxllm {arguments.command}: {error.filename or 'output'}: {error.strerror or error}.", file=sys.stderr)
        return 1


def _let_all_characters_through() -> None:
    """What an output's encoding lacks is escaped, as are the bytes of a file's name that are no UTF-8; what is typed in
    another encoding than the terminal's is replaced. An error handler that the user chose stays."""
    for file, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(file, io.TextIOWrapper) and file.errors in ("strict", "surrogateescape"):
            file.reconfigure(errors=errors)


def _out_of_memory(error: BaseException) -> str | None:
    if isinstance(error, RuntimeError) and "jax" not in sys.modules:
        return None
    from .runtime.memory import describe_out_of_memory

    return describe_out_of_memory(error)


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

    train = add_command(
        commands, "train", _train, "train a model as a config file says",
        "jaxllm train configs/quickstart.toml --out runs/first --set train.steps=500",
    )  # fmt: skip
    train.add_argument("config", nargs="?", metavar="CONFIG.toml", help="may be left out with --resume")
    train.add_argument("--out", metavar="RUN", help="run folder to make (default: runs/NAME of the config)")
    add_overrides(train)
    train.add_argument("--resume", action="store_true", help="continue the run in RUN from its newest checkpoint")
    train.add_argument(
        "--fall-back", action="store_true", help="with --resume: where newer checkpoints are damaged, from a whole one"
    )
    train.add_argument(
        "--profile", type=int, metavar="N", help="show where the time of N steps goes, by operation and source line"
    )

    add_writing_commands(commands)
    evaluate = add_command(
        commands, "evaluate", _evaluate, "validation loss, perplexity and bits per byte of a trained model",
        "jaxllm evaluate runs/first --data my-text.txt",
    )  # fmt: skip
    evaluate.add_argument("path", metavar="RUN", help="run folder")
    _add_step(evaluate)
    evaluate.add_argument(
        "--data", metavar="PATH", help="all of this text, or the validation split of prepared data, not the run's"
    )
    evaluate.add_argument("--field", metavar="NAME", help="of the text in JSON lines; default: the run's data.field")
    evaluate.add_argument("--weights", choices=WEIGHTS, help="of the model packed as for generating; default: as it is")

    compare = add_command(
        commands, "compare", _compare, "every number of a model against the NumPy reference; exit 1 beyond tolerance",
        "jaxllm compare configs/gpt2-124m.toml --dtype float32 --out error.png",
    )  # fmt: skip
    compare.add_argument(
        "path", nargs="?", metavar="CONFIG.toml|RUN",
        help="a config (random weights) or a run folder (its newest checkpoint); default: a small GPT",
    )  # fmt: skip
    _add_step(compare)
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
    _add_checkpoint(commands)
    _add_bench(commands)
    add_data_commands(commands)
    add_look_commands(commands)
    return parser


def _add_step(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--step", metavar="N|best", help="checkpoint of a run; default: the newest")


def _add_checkpoint(commands: "argparse._SubParsersAction[Parser]") -> None:
    checkpoint = commands.add_parser("checkpoint", help="what a run has saved", description="What a run has saved.")
    kinds = checkpoint.add_subparsers(dest="checkpoint", metavar="WHAT", required=True)
    for kind, run, help in (
        ("list", _list_checkpoints, "the checkpoints of a run with their validation losses"),
        ("verify", _verify_checkpoints, "compare every byte of every checkpoint; exit 1 if one is damaged"),
    ):
        parser = add_command(kinds, kind, run, help, f"jaxllm checkpoint {kind} runs/first")
        parser.add_argument("path", metavar="RUN", help="run folder")


def _add_bench(commands: "argparse._SubParsersAction[Parser]") -> None:
    bench = commands.add_parser("bench", help="time it, also beside another program", description="Time it.")
    kinds = bench.add_subparsers(dest="bench", metavar="WHAT", required=True)
    train = add_command(
        kinds, "train", _bench_train,
        "time the training step of a config on random tokens; beside another program's exit 1 if the losses differ",
        "jaxllm bench train configs/shakespeare-char.toml --against nanogpt --peer ~/nanoGPT --json bench.json",
    )  # fmt: skip
    train.add_argument("config", metavar="CONFIG.toml")
    add_overrides(train)
    train.add_argument("--against", choices=("nanogpt", "hf"), help="karpathy/nanoGPT, or Hugging Face's GPT-2")
    train.add_argument("--peer", metavar="PATH", help="checkout of nanoGPT")
    train.add_argument("--peer-python", metavar="EXE", help="a Python that has PyTorch; default: this one")
    train.add_argument("--rounds", type=int, default=10, metavar="N", help="turns of a second or two steps; default 10")
    train.add_argument("--json", metavar="FILE.json", help="write all figures as JSON")
    add_bench_generate(kinds)
    tokenizer = add_command(
        kinds, "tokenizer", _bench_tokenizer,
        "train byte pairs and encode with them, beside other programs; exit 1 if their ids differ",
        "jaxllm bench tokenizer python-stdlib --against hf rustbpe tiktoken",
    )  # fmt: skip
    tokenizer.add_argument(
        "sources", nargs="*", default=["python-stdlib"], metavar="SOURCE", help="default python-stdlib"
    )
    add_field(tokenizer)
    tokenizer.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="default 32768")
    tokenizer.add_argument(
        "--against", nargs="+", choices=("tiktoken", "hf", "rustbpe"), help="default: those that are installed"
    )
    tokenizer.add_argument("--rounds", type=int, default=3, metavar="N", help="default 3")
    tokenizer.add_argument("--json", metavar="FILE.json", help="write all figures as JSON")
    helps = {
        "attention": ("causal attention at lengths from 256 to 8192, beside the textbook's", "--dtype bfloat16"),
        "loss": ("the head with its loss at vocabularies up to 131072, beside the textbook's", "--json loss.json"),
        "sizes": ("a config's step with half and twice its depth, width and batch", "configs/shakespeare-char.toml"),
    }
    for kind, (help, example) in helps.items():
        growth = add_command(kinds, kind, _bench_growth, help, f"jaxllm bench {kind} {example}")
        if kind == "sizes":
            growth.add_argument("config", metavar="CONFIG.toml")
            add_overrides(growth)
        else:
            growth.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
        growth.add_argument("--json", metavar="FILE.json", help="write all figures as JSON")


# The commands import what they need when they run, so that --help and a mistyped option answer at once.


def _prepare_jax(command: str) -> None:
    if command != "bench":  # which times compiling, in processes of its own
        from .runtime.compile_cache import keep_compiled

        keep_compiled()
    compute_in_this_thread()
    if command not in ("train", "bench"):  # the one may have more to say to JAX, the other times its first computation
        from .runtime.jax_check import check_jax

        check_jax()


def _train(arguments: argparse.Namespace) -> None:
    from .commands.train import train_command

    a = arguments
    train_command(a.config, a.out, a.overrides, a.resume, a.fall_back, a.profile)


def _evaluate(arguments: argparse.Namespace) -> None:
    from .commands.train import evaluate_command

    a = arguments
    evaluate_command(a.path, a.step, a.data, a.field, a.weights)


def _compare(arguments: argparse.Namespace) -> int:

    from .commands.compare import compare_command

    within = compare_command(
        arguments.path,
        arguments.step,
        arguments.dtype,
        arguments.batch_size,
        arguments.length,
        arguments.json,
        arguments.out,
    )
    return 0 if within else 1


def _list_checkpoints(arguments: argparse.Namespace) -> None:
    from .commands.checkpoint import list_command

    list_command(arguments.path)


def _verify_checkpoints(arguments: argparse.Namespace) -> int:
    from .commands.checkpoint import verify_command

    return 0 if verify_command(arguments.path) else 1


def _bench_train(arguments: argparse.Namespace) -> int:
    from .bench.train import bench_train_command

    agree = bench_train_command(
        arguments.config, arguments.overrides, arguments.against, arguments.peer, arguments.peer_python,
        arguments.rounds, arguments.json,
    )  # fmt: skip
    return 0 if agree else 1


def _bench_tokenizer(arguments: argparse.Namespace) -> int:
    from .bench.tokenizer import bench_tokenizer_command

    a = arguments
    return 0 if bench_tokenizer_command(a.sources, a.field, a.vocab_size, a.against, a.rounds, a.json) else 1


def _bench_growth(arguments: argparse.Namespace) -> None:

    from .bench.scaling import growth_command

    given = vars(arguments)
    growth_command(
        arguments.bench, given.get("config"), given.get("overrides", []), given.get("dtype", ""), arguments.json
    )
