"""`jaxllm import`: makes a run of a pretrained model, which every command that reads runs can read.

The run has a config with a [model] section, a tokenizer in jaxllm's format, and `weights.safetensors` and
`pretrained.json` in place of checkpoints.
"""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from jaxllm.gpt import count_parameters
from jaxllm.pretrained.fetch import fetch
from jaxllm.pretrained.hf_added_tokens import without_ids_from
from jaxllm.pretrained.load import open_pretrained
from jaxllm.utils.errors import InputError

from ..config import ModelConfig, RunConfig, TrainConfig
from ..outputs import check_new_folder, new_folder
from ..runs.folder import RunFolder
from ..runs.imported_weights import write_weights
from ..tune.base import read_tokenizer
from .options import Parser


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm import gpt2 --out runs/gpt2")
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a Hugging Face folder, a GGUF file, package:NAME of a Python package that holds one, or a name on "
        "Hugging Face",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="RUN", help="run folder to make")


def run(arguments: argparse.Namespace) -> None:
    """Write the run folder, which appears when it is complete."""
    source, out = arguments.source, Path(arguments.out)
    check_new_folder(out)  # before anything is downloaded
    path = fetch(source)
    opened = open_pretrained(path)
    config = opened.config
    opened.check()  # before a tokenizer is made of as many ids as the file claims
    tokenizer, chat = read_tokenizer(path, config.vocab_size)
    tokenizer = without_ids_from(tokenizer, config.vocab_size, (chat.begin_token, *chat.end_tokens))
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer of {source} has {tokenizer.vocab_size:,} ids, but its model only {config.vocab_size:,}; "
            "use the tokenizer that the model was published with."
        )
    with new_folder(out) as temporary:
        folder = RunFolder(temporary)
        folder.create(RunConfig(model=ModelConfig(**asdict(config)), train=TrainConfig(batch_size=1)), tokenizer)
        chat.save(folder.pretrained)
        write_weights(
            folder.weights, opened.parameters(), os.path.abspath(source) if os.path.exists(source) else source
        )
    template = "with" if chat.chat_template else "without"
    print(
        f"{count_parameters(config):,} parameters, {config.n_layers} layers, context {config.context_length:,}, "
        f"{tokenizer.vocab_size:,} ids, {template} a chat template: {arguments.out}"
    )
