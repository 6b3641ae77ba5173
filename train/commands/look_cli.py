"""The parsers of `jaxllm attention` and `jaxllm inspect`."""

import argparse

from .options import Parser, add_command


def add_look_commands(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Both commands."""
    attention = add_command(
        commands, "attention", _attention, "what each token of a prompt attends to, as a picture or a page",
        'jaxllm attention runs/first --prompt "Please buy an apple and an orange" --out map.html',
    )  # fmt: skip
    _add_prompt(attention)
    attention.add_argument(
        "--out", required=True, metavar="FILE",
        help="a picture (.png, .svg, .pdf; at most 128 tokens), or a page to explore in a browser (.html; at most 256)",
    )  # fmt: skip
    attention.add_argument(
        "--layer", type=int, metavar="N",
        help="draw the heads of this layer large, or open the page there; default: a small map of every head",
    )  # fmt: skip
    inspect = add_command(
        commands, "inspect", _inspect, "the most likely next tokens, and after which block the model knew",
        'jaxllm inspect runs/first --prompt "The capital of France is" --top 5',
    )  # fmt: skip
    _add_prompt(inspect)
    inspect.add_argument("--top", type=int, default=10, metavar="N", help="so many next tokens; default 10")


def _add_prompt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="run folder")
    parser.add_argument("--step", metavar="N|best", help="checkpoint of a run; default: the newest")
    parser.add_argument("--prompt", required=True, metavar="TEXT")


# The commands import what they need when they run.


def _attention(arguments: argparse.Namespace) -> None:
    from .attention import attention_command

    a = arguments
    attention_command(a.path, a.step, a.prompt, a.out, a.layer)


def _inspect(arguments: argparse.Namespace) -> None:
    from .inspect import inspect_command

    inspect_command(arguments.path, arguments.step, arguments.prompt, arguments.top)
