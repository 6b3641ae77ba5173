"""`jaxllm export`: writes a run as a folder that transformers opens."""

import argparse
from pathlib import Path

from jaxllm.gpt import count_parameters
from jaxllm.pretrained.hf_config import family_for
from jaxllm.pretrained.hf_tokenizer import save_tokenizer_files
from jaxllm.pretrained.save import save_pretrained

from ..ideas import load_code
from ..outputs import new_folder
from ..runs.load import load_run
from .export_verify import verify
from .options import Parser, add_code, add_run


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm export runs/first --out exported --verify")
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--verify", action="store_true",
        help="open the folder with transformers, or without it with jaxllm, and compare its logits with the run's; "
        "exit 1 if they differ, and leave no folder",
    )  # fmt: skip
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the folder, which appears when it is complete."""
    with new_folder(Path(arguments.out)) as folder:
        exported = load_run(arguments.path, arguments.step, code=load_code(arguments.code))
        config, tokenizer = exported.model.config, exported.tokenizer
        save_pretrained(folder, config, exported.params)
        save_tokenizer_files(folder, tokenizer, exported.chat)
        verified = verify(folder, config, exported.params) if arguments.verify else None
    print(f"{count_parameters(config):,} parameters as {family_for(config).architecture}: {arguments.out}")
    if verified is not None:
        print(verified)
    if config.vocab_size > tokenizer.vocab_size:
        print(f"the model has {config.vocab_size:,} ids, its tokenizer uses {tokenizer.vocab_size:,} of them")
    if config.separator is not None:
        print("transformers lets a text attend to documents before it; this model was trained without")
