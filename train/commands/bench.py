"""`jaxllm bench`: measures speed and memory, alone or beside another program. `train/bench/` does the work."""

import argparse
from itertools import product

from jaxllm.config import WEIGHTS
from jaxllm.utils.errors import InputError

from ..bench.alternate import peer_for
from ..bench.generate import Lengths, bench_generate_command
from ..bench.lookup import bench_lookup_command
from ..bench.plan import bench_plan_command
from ..bench.scaling import growth_command
from ..bench.sides import other_of
from ..bench.speedrun import bench_speedrun_command
from ..bench.tokenizer import bench_tokenizer_command
from ..bench.train import bench_train_command
from ..bench.tune import bench_tune_command
from .options import Parser, add_code, add_field, add_overrides, add_parser


def add_options(parser: Parser) -> None:
    """The options of everything that can be measured."""
    kinds = parser.add_subparsers(dest="bench", metavar="WHAT", required=True)
    add_train(kinds)
    add_speedrun(kinds)
    add_tune(kinds)
    add_generate(kinds)
    add_tokenizer(kinds)
    add_growth(kinds)
    add_plan(kinds)


def add_train(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench train`."""
    parser = add_parser(
        kinds, "train",
        "time the training step of a config on random tokens; beside another program or commit exit 1 if the losses "
        "differ",
    )  # fmt: skip
    parser.runs(
        run_train,
        "jaxllm bench train configs/shakespeare-char.toml --against nanogpt --peer ~/nanoGPT --json bench.json",
    )
    parser.add_argument("config", metavar="CONFIG.toml")
    add_overrides(parser)
    add_code(parser)
    add_peer(parser)
    add_rounds(parser, 10, "turns of a second or two steps")
    add_json(parser)


def run_train(arguments: argparse.Namespace) -> int:
    """Returns 1 if the losses differ."""
    a = arguments
    other = other_of(a.against, a.against_commit, a.peer, a.peer_python, "train_worker")
    agree = bench_train_command(a.config, a.overrides, a.code, other, a.rounds, a.json)
    return 0 if agree else 1


def add_speedrun(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench speedrun`."""
    parser = add_parser(
        kinds, "speedrun",
        "time whole training runs on a CPU from the command to a validation loss, start and compilation included; "
        "exit 1 if one never reaches it",
    )  # fmt: skip
    parser.runs(
        run_speedrun,
        "jaxllm bench speedrun configs/shakespeare-char.toml --against nanogpt --peer ~/nanoGPT --out seconds.png",
    )
    parser.add_argument("config", metavar="CONFIG.toml")
    add_overrides(parser)
    add_code(parser)
    parser.add_argument("--loss", type=float, default=1.90, metavar="L", help="validation loss to reach; default 1.90")
    parser.add_argument("--against", choices=("nanogpt",), help="karpathy/nanoGPT's train.py with its CPU recipe")
    add_program(parser)
    parser.add_argument(
        "--for-its-time", metavar="CONFIG2.toml",
        help="what to train for as long as the other program's whole run takes, which sets its train.seconds and "
        "train.steps; default CONFIG.toml",
    )  # fmt: skip
    add_rounds(parser, 3, "turns of whole runs")
    parser.add_argument("--out", metavar="PICTURE", help="draw the losses over seconds: a .png file")
    add_json(parser)


def run_speedrun(arguments: argparse.Namespace) -> None:
    """Print the seconds of both sides."""
    a = arguments
    peer = peer_for(a.against, a.peer, a.peer_python)
    bench_speedrun_command(a.config, a.for_its_time, a.overrides, a.code, peer, a.rounds, a.loss, a.out, a.json)


def add_tune(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench tune`."""
    parser = add_parser(
        kinds, "tune", "time and memory of a step that trains adapters, beside one that trains all parameters"
    )
    parser.runs(
        lambda a: bench_tune_command(a.path, a.overrides, a.rounds, a.json),
        "jaxllm bench tune runs/smollm2 --set lora.rank=8 --set lora.base=int8",
    )
    parser.add_argument("path", nargs="?", metavar="RUN", help="whose model's shape; default that of SmolLM2-135M")
    add_overrides(parser)
    add_rounds(parser, 3, "turns of a second or two steps")
    add_json(parser)


def add_generate(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench generate`."""
    parser = add_parser(
        kinds, "generate",
        "time how fast a config's model writes, greedily and with random weights; beside another program or commit "
        "exit 1 if the tokens differ. With --lookup, a run's model on code and prose, with and without drafted tokens",
    )  # fmt: skip
    parser.runs(
        run_generate, "jaxllm bench generate configs/gpt2-124m.toml --weights int8 --against hf --json bench.json"
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="or, with --lookup, a run folder")
    add_overrides(parser)
    add_code(parser)
    parser.add_numbers("--lookup", 0, "N", "tokens drafted at a time (as in generate); several give a row each")
    parser.add_numbers("--batch-size", 1, "B", "texts at a time; default 1. Several numbers give a row each")
    parser.add_numbers("--prompt-tokens", 16, "P", "default 16; several as well")
    parser.add_argument("--new-tokens", type=int, default=64, metavar="N", help="default 64")
    parser.add_argument("--weights", choices=WEIGHTS, default="float32", help="type of our weights; default float32")
    add_peer(parser)
    add_rounds(parser, 5, "turns of a second or a text")
    add_json(parser)


def run_generate(arguments: argparse.Namespace) -> int:
    """Returns 1 if the tokens differ."""
    a = arguments
    lengths = [Lengths(b, p, a.new_tokens) for b, p in product(a.batch_size, a.prompt_tokens)]
    if a.lookup != [0]:
        if a.against or a.against_commit or a.overrides:
            raise InputError("--lookup compares a run with itself; leave --against, --against-commit and --set out.")
        agree = bench_lookup_command(a.config, a.code, [*dict.fromkeys(a.lookup)], lengths, a.weights, a.rounds, a.json)
        return 0 if agree else 1
    other = other_of(a.against, a.against_commit, a.peer, a.peer_python, "generate_worker")
    agree = bench_generate_command(a.config, a.overrides, a.code, lengths, a.weights, other, a.rounds, a.json)
    return 0 if agree else 1


def add_tokenizer(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench tokenizer`."""
    parser = add_parser(
        kinds, "tokenizer", "train byte pairs and encode with them, beside other programs; exit 1 if their ids differ"
    )
    parser.runs(run_tokenizer, "jaxllm bench tokenizer python-stdlib --against hf rustbpe tiktoken")
    parser.add_argument("sources", nargs="*", default=["python-stdlib"], metavar="SOURCE", help="default python-stdlib")
    add_field(parser)
    parser.add_argument("--vocab-size", type=int, default=32768, metavar="N", help="default 32768")
    parser.add_argument(
        "--against", nargs="+", choices=("tiktoken", "hf", "rustbpe"), help="default: those that are installed"
    )
    add_rounds(parser, 3, "how often each side trains and encodes")
    add_json(parser)


def run_tokenizer(arguments: argparse.Namespace) -> int:
    """Returns 1 if the ids differ."""
    a = arguments
    return 0 if bench_tokenizer_command(a.sources, a.field, a.vocab_size, a.against, a.rounds, a.json) else 1


def add_growth(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench attention`, `loss`, `sizes` and `contexts`: how time and memory grow."""
    for kind, help, example in (
        ("attention", "causal attention at lengths from 256 to 8192, beside the textbook's", "--dtype bfloat16"),
        ("loss", "the head with its loss at vocabularies up to 131072, beside the textbook's", "--json loss.json"),
        ("sizes", "a config's step with half and twice its depth, width and batch", "configs/shakespeare-char.toml"),
        ("contexts", "a step's memory at contexts up to 32768, also of each device", "configs/shakespeare-char.toml"),
    ):
        parser = add_parser(kinds, kind, help)
        parser.runs(run_growth, f"jaxllm bench {kind} {example}")
        if kind in ("sizes", "contexts"):
            parser.add_argument("config", metavar="CONFIG.toml")
            add_overrides(parser)
        else:
            parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32")
        add_json(parser)


def run_growth(arguments: argparse.Namespace) -> None:
    """Print a row for each size."""
    given = vars(arguments)
    growth_command(
        arguments.bench, given.get("config"), given.get("overrides", []), given.get("dtype", ""), arguments.json
    )


def add_plan(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """`jaxllm bench plan`."""
    parser = add_parser(
        kinds, "plan", "what `jaxllm plan` says of memory and time, beside XLA's plan of all blocks and real steps"
    )
    parser.runs(
        lambda a: bench_plan_command(a.config, a.overrides, a.json), "jaxllm bench plan configs/quickstart.toml"
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="its sizes are set, and those of [parallel]")
    add_overrides(parser)
    add_json(parser)


def add_peer(parser: Parser) -> None:
    """Another program beside ours, or another commit."""
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--against", choices=("nanogpt", "hf"), help="karpathy/nanoGPT, or Hugging Face's GPT-2")
    other.add_argument(
        "--against-commit", metavar="REV", help="another commit of this checkout: a hash, a tag, a branch or HEAD~N"
    )
    add_program(parser)


def add_program(parser: Parser) -> None:
    """Where the other program lies, and what runs it."""
    parser.add_argument("--peer", metavar="PATH", help="checkout of nanoGPT")
    parser.add_argument("--peer-python", metavar="EXE", help="a Python that has PyTorch; default: this one")


def add_rounds(parser: Parser, default: int, help: str) -> None:
    """How often each side takes its turn."""
    parser.add_argument("--rounds", type=int, default=default, metavar="N", help=f"{help}; default {default}")


def add_json(parser: Parser) -> None:
    """A file of figures."""
    parser.add_argument("--json", metavar="FILE.json", help="write all figures as JSON")
