"""`jaxllm chat`: a conversation with a model, line by line."""

import argparse
import io
import sys
from collections.abc import Iterator

from jaxllm.utils.errors import InputError
from jaxllm.utils.utf8 import without_mark

from ..ideas import load_code
from ..notes import print_note
from ..writer import Options, Writer, check_length, fit_conversation, show
from .options import Parser, add_code, add_run, add_writing


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm chat runs/smollm2")
    add_run(parser, step=False)
    parser.add_argument("--system", metavar="TEXT", help="a system message, which stays before the conversation")
    add_writing(parser, 1000)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Answer each line, until the end of the input or /exit; /reset starts a new conversation."""
    options, system = Options.of(arguments, answers=True), arguments.system
    writer = Writer(arguments.path, None, options, load_code(arguments.code))
    first = [] if system is None else [{"role": "system", "content": system}]
    what = "a question" if system is None else "--system"
    fit_conversation(writer, [*first, {"role": "user", "content": "?"}], len(first), what)  # fails before a question
    if sys.stdin.isatty():
        print(
            f"{arguments.path}: a context of {writer.context:,} tokens. /reset starts a new conversation, /exit or "
            "Ctrl-D ends."
        )
    messages = list(first)
    for turn, line in enumerate(input_lines()):
        if line == "/exit":
            return
        if line == "/reset":
            messages = list(first)
            continue
        try:
            check_length("the question", line)
            asked = [*messages, {"role": "user", "content": line}]
            asked, ids = fit_conversation(writer, asked, len(first), "the question")
        except InputError as error:
            print_note(error)
            continue
        answer = show(writer.answer(ids, (options.seed + turn) % 2**32))
        messages = [*asked, {"role": "assistant", "content": answer}]


def input_lines() -> Iterator[str]:
    """The lines of standard input that are not blank. Raises InputError for a text that is not UTF-8 by its mark."""
    interactive = sys.stdin.isatty()
    mark = "\ufeff"  # the byte-order mark that a text from a pipe may begin with
    if isinstance(buffer := getattr(sys.stdin, "buffer", None), io.BufferedReader) and not interactive:
        without_mark(buffer.peek(4)[:4], "standard input")
    while True:
        try:
            line, mark = input("> " if interactive else "").removeprefix(mark), ""
        except EOFError:
            if interactive:
                print()
            return
        if line.strip():
            yield line.strip()
