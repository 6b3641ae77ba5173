"""The commands that write text and those that bring models in and out: their words on the command line."""

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING

from jaxllm.config import WEIGHTS

from .options import Parser, add_command

if TYPE_CHECKING:
    from ..writer import Options

CONTINUES = {"temperature": 0.8}
ANSWERS = {"temperature": 0.2, "top_p": 0.9}  # what SmolLM2's model card asks with


def add_writing_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """generate, chat, import, export."""
    generate = add_command(
        commands, "generate", _generate, "continue a prompt with a model, or answer it",
        'jaxllm generate runs/first --prompt "The statement" --max-new-tokens 100 --top-k 50',
    )  # fmt: skip
    generate.add_argument("path", metavar="RUN", help="run folder")
    generate.add_argument("--step", metavar="N|best", help="checkpoint of a run; default: the newest")
    generate.add_argument("--prompt", required=True, metavar="TEXT")
    generate.add_argument("--chat", action="store_true", help="ask the prompt as a question, by the model's template")
    _add_options(generate, 200)
    chat = add_command(
        commands, "chat", _chat, "talk with a model, by its own chat template", "jaxllm chat runs/smollm2"
    )
    chat.add_argument("path", metavar="RUN", help="run folder of an imported model")
    chat.add_argument("--system", metavar="TEXT", help="a message that comes before the conversation")
    _add_options(chat, 1000)
    bring = add_command(
        commands, "import", _import, "make a run of a pretrained model", "jaxllm import gpt2 --out runs/gpt2"
    )
    bring.add_argument(
        "source", metavar="SOURCE",
        help="a Hugging Face folder, a GGUF file, package:NAME that holds one, or a name on Hugging Face",
    )  # fmt: skip
    bring.add_argument("--out", required=True, metavar="RUN", help="run folder to make")
    export = add_command(
        commands, "export", _export, "write a run as a folder that transformers opens",
        "jaxllm export runs/first --out exported",
    )  # fmt: skip
    export.add_argument("path", metavar="RUN", help="run folder")
    export.add_argument("--step", metavar="N|best", help="checkpoint of a run; default: the newest")
    export.add_argument("--out", required=True, metavar="FOLDER", help="folder to make")


def _add_options(parser: argparse.ArgumentParser, most: int) -> None:
    parser.add_argument("--max-new-tokens", type=int, default=most, metavar="N", help=f"default {most}")
    parser.add_argument("--temperature", type=float, metavar="T", help="0: most likely; default 0.8, for answers 0.2")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K most likely tokens")
    parser.add_argument(
        "--top-p", type=float, metavar="P", help="draw from the fewest tokens that reach P; for answers 0.9"
    )
    parser.add_argument("--min-p", type=float, metavar="P", help="leave out tokens below P times the likeliest")
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1: what is in the text becomes less likely"
    )
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT", help="end before this text; may be given again"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0; the same seed, the same text")
    parser.add_argument(
        "--weights", choices=WEIGHTS, default="float32", help="what to hold the weights in; default float32"
    )


def _options(a: argparse.Namespace, answers: bool) -> "Options":
    from ..writer import Options

    given = {field.name: getattr(a, field.name) for field in fields(Options)}
    defaults = ANSWERS if answers else CONTINUES
    return Options(**given | {name: value for name, value in defaults.items() if given[name] is None})


def _generate(a: argparse.Namespace) -> None:
    from ..writer import generate_command

    generate_command(a.path, a.step, a.prompt, a.chat, _options(a, answers=a.chat))


def _chat(a: argparse.Namespace) -> None:
    from ..writer import chat_command

    chat_command(a.path, a.system, _options(a, answers=True))


def _import(a: argparse.Namespace) -> None:
    from .import_ import import_command

    import_command(a.source, a.out)


def _export(a: argparse.Namespace) -> None:
    from .import_ import export_command

    export_command(a.path, a.step, a.out)
