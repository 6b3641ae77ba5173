"""`jaxllm generate`: continues a prompt, or answers it."""

import argparse

from ..ideas import load_code
from ..notes import print_cut_prompt
from ..writer import Options, Writer, check_length, fit_conversation, prompt_ids, show
from .options import Parser, add_code, add_run, add_writing


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, 'jaxllm generate runs/first --prompt "The statement" --max-new-tokens 100 --top-k 50')
    add_run(parser)
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--chat", action="store_true", help="answer the prompt, by the model's chat template")
    add_writing(parser, 200)
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the prompt and its continuation, or with --chat the answer alone."""
    options = Options.of(arguments, answers=arguments.chat)
    check_length("--prompt", arguments.prompt)
    writer = Writer(arguments.path, arguments.step, options, load_code(arguments.code))
    (answer if arguments.chat else continue_)(writer, arguments.prompt)


def continue_(writer: Writer, prompt: str) -> None:
    """Print the prompt and what follows."""
    ids, shown = prompt_ids(writer.run, prompt), writer.run.tokenizer.encode(prompt)
    if len(ids) > writer.context:
        read = writer.context - (len(ids) - len(shown))
        print_cut_prompt("--prompt", len(shown), read, writer.context)
    print(writer.run.tokenizer.decode(shown), end="", flush=True)
    show(writer.text(ids, writer.options.seed, shown))


def answer(writer: Writer, prompt: str) -> None:
    """Print the answer to the prompt."""
    _, ids = fit_conversation(writer, [{"role": "user", "content": prompt}], 0, "--prompt")
    show(writer.answer(ids, writer.options.seed))
