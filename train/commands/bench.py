"""The parser of `jaxllm bench generate`."""

import argparse

from jaxllm.config import WEIGHTS

from .options import Parser, add_command, add_overrides


def add_bench_generate(kinds: "argparse._SubParsersAction[Parser]") -> None:
    """The command and its options."""
    generate = add_command(
        kinds, "generate", _bench_generate,
        "time how fast a config's model writes, greedily and with random weights; beside another program's exit 1 if "
        "the tokens differ",
        "jaxllm bench generate configs/gpt2-124m.toml --weights int8 --against hf --json bench.json",
    )  # fmt: skip
    generate.add_argument("config", metavar="CONFIG.toml")
    add_overrides(generate)
    generate.add_argument("--batch-size", type=int, default=1, metavar="B", help="texts at once; default 1")
    generate.add_argument("--prompt-tokens", type=int, default=16, metavar="P", help="default 16")
    generate.add_argument("--new-tokens", type=int, default=64, metavar="N", help="default 64")
    generate.add_argument("--weights", choices=WEIGHTS, default="float32", help="ours; default float32")
    generate.add_argument("--against", choices=("nanogpt", "hf"), help="karpathy/nanoGPT, or Hugging Face's GPT-2")
    generate.add_argument("--peer", metavar="PATH", help="checkout of nanoGPT")
    generate.add_argument("--peer-python", metavar="EXE", help="a Python that has PyTorch; default: this one")
    generate.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of a second or a text; default 5")
    generate.add_argument("--json", metavar="FILE.json", help="write all figures as JSON")


def _bench_generate(arguments: argparse.Namespace) -> int:
    from ..bench.generate import Lengths, bench_generate_command

    a = arguments
    lengths = Lengths(a.batch_size, a.prompt_tokens, a.new_tokens)
    agree = bench_generate_command(
        a.config, a.overrides, lengths, a.weights, a.against, a.peer, a.peer_python, a.rounds, a.json
    )
    return 0 if agree else 1
