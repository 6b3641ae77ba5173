"""The command line, `jaxllm COMMAND ...`: chooses the command, runs it, and turns errors into exit codes.

`jaxllm NAME` is `train/commands/NAME.py`, which has its options and what it does. Only the module of the chosen command
is imported, so that help, a mistyped command and the commands without a model do not import JAX.

Exit codes: 0 done, 1 failed or diverged, 2 wrong input, 130 interrupted, 143 ended by SIGTERM, 141 the reader of the
output went away.
"""

import importlib
import io
import keyword
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from jaxllm import __version__
from jaxllm.utils.errors import InputError, NonFiniteError

from .commands.options import Parser, add_parser
from .errors import RunError, Stopped, UserCodeError
from .notes import notes_printed
from .runtime.allocator import compute_in_this_thread, restart_with_allocator

COMMANDS = {  # each with its line in `jaxllm --help`
    "train": "train a model from a config file",
    "tune": "train on from weights that exist: answers, classes, preferences, more text; in full or by adapters",
    "merge": "add the adapters of a run to its weights, and prove that this keeps what was tuned",
    "classify": "label a text by a run that was tuned to classify",
    "sweep": "train a run for every combination of values, and compare them",
    "generate": "continue a prompt with a model, or answer it",
    "chat": "talk with a model, by its own chat template",
    "evaluate": "compute the validation loss of a model, or the share of multiple-choice questions that it answers",
    "config": "list the fields of a config file with their types and defaults",
    "describe": "show the parameters of a model, what updates them, and what training it costs; nothing is trained",
    "plan": "compute what a run would need on devices that you may not have: memory, FLOPs, transfers, time",
    "coordinates": "check muP: how far some steps move what a model computes, at several widths",
    "tokenizer": "train and use tokenizers",
    "data": "prepare corpora for training, and show the pairs that training reads",
    "runs": "compare runs: in what they differ, losses, costs, curves, and a verdict over seeds",
    "checkpoint": "list and verify the checkpoints of a run",
    "import": "make a run of a pretrained model",
    "export": "write a run as a folder that transformers opens",
    "attention": "show what each token of a prompt attends to: a picture, a page, heads for two words",
    "inspect": "show the most likely next tokens, and after which block the model knew them",
    "compare": "compare every number of a model with the NumPy reference, or two runs; exit 1 where they part",
    "learn": "write the pieces of a language model yourself, and be told which mistake a wrong one has",
    "bench": "measure speed and memory, alone or beside another program",
}
WITHOUT_JAX = ("config", "tokenizer", "data", "learn")
LONG = ("train", "tune", "sweep", "bench", "generate", "chat")  # long enough for a restart with memory in large pages


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    _escape_missing_characters()
    words = sys.argv[1:] if argv is None else list(argv)
    command = next((word for word in words if not word.startswith("-")), "")
    if argv is None and command in LONG:  # this process is jaxllm's own; JAX is not imported yet
        restart_with_allocator()
    try:
        return _run(command, words)
    except (InputError, UserCodeError) as error:
        return _fail(command, error, 2)
    except (RunError, NonFiniteError) as error:
        return _fail(command, error, 1)
    except Stopped as stopped:
        return _fail(command, stopped, stopped.exit_code)
    except KeyboardInterrupt:
        return _fail(command, "stopped", 130)
    except BrokenPipeError:  # `jaxllm ... | head`: silent, as other programs are
        _drop_output()
        return 141
    except (MemoryError, RuntimeError) as error:  # JAX's errors are RuntimeErrors
        if not (message := _out_of_memory(error)):
            raise
        return _fail(command, message, 1)
    except OSError as error:
        _drop_output()
        return _fail(command, f"{error.filename or 'output'}: {error.strerror or error}.", 1)


def _run(command: str, words: Sequence[str]) -> int:
    arguments = build_parser([command]).parse_args(words)
    if command not in WITHOUT_JAX:
        _prepare_jax(command)
    with notes_printed():
        code: int = _run_with_code(arguments) or 0
    sys.stdout.flush()
    return code


def _run_with_code(arguments: Any) -> int | None:
    """Run the command; an exception of the user's own code is shown with the lines of that code."""
    if getattr(arguments, "code", None) is None:
        return cast(int | None, arguments.run(arguments))
    from .ideas import users_errors

    with users_errors(Path(arguments.code)):
        return cast(int | None, arguments.run(arguments))


def build_parser(configured: Iterable[str] = tuple(COMMANDS)) -> Parser:
    """The parser of all commands. Only the `configured` ones are imported and have their options."""
    parser = Parser(prog="jaxllm", description="A large language model from scratch, in JAX and Flax.")
    parser.add_argument("--version", action="version", version=f"jaxllm {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, help in COMMANDS.items():
        command = add_parser(commands, name, help)
        if name in configured:
            command_module(name).add_options(command)
    return parser


def command_module(name: str) -> Any:
    """The module in `train/commands/` of a command; a keyword's name ends in an underscore there (`import_.py`)."""
    return importlib.import_module(f".commands.{name}{'_' * keyword.iskeyword(name)}", __package__)


def _prepare_jax(command: str) -> None:
    """Settings that must come before JAX's first computation."""
    if command != "bench":  # it measures the time to compile, in processes of its own
        from .runtime.compile_cache import keep_compiled

        keep_compiled()
    compute_in_this_thread()
    if command not in (
        "train",
        "tune",
        "sweep",
        "bench",
        "plan",
    ):  # three have further settings; two start processes of their own
        from .runtime.jax_check import check_jax

        check_jax()


def _fail(command: str, message: object, code: int) -> int:
    print(f"jaxllm {command}: {message}", file=sys.stderr)
    return code


def _out_of_memory(error: BaseException) -> str | None:
    if isinstance(error, RuntimeError) and "jax" not in sys.modules:
        return None
    from .runtime.memory import describe_out_of_memory

    return describe_out_of_memory(error)


def _escape_missing_characters() -> None:
    """Escape characters that the terminal cannot encode, and bytes of file names that are not UTF-8; replace bytes of
    the input that are not in the terminal's encoding. An error handler that the user has chosen stays."""
    for file, errors in ((sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if isinstance(file, io.TextIOWrapper) and file.errors in ("strict", "surrogateescape"):
            file.reconfigure(errors=errors)


def _drop_output() -> None:
    """Python flushes standard output again at exit; drop what cannot be written, so that there is no traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
