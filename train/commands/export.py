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
from .export_adapter import how_to_open, verify_adapter, write_adapter_of
from .export_verify import verify
from .options import Parser, add_code, add_run


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm export runs/first --out exported --verify")
    add_run(parser)
    parser.add_argument("--out", required=True, metavar="FOLDER", help="folder to make")
    parser.add_argument(
        "--adapter", action="store_true", help="write a run's adapters alone, as a folder that PEFT opens"
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="open the folder with transformers (and PEFT), or without it with jaxllm, and compare its logits with the "
        "run's; exit 1 if they differ, and leave no folder",
    )  # fmt: skip
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the folder, which appears when it is complete."""
    path, step, code, verified = arguments.path, arguments.step, load_code(arguments.code), None
    with new_folder(Path(arguments.out)) as folder:
        exported = load_run(path, step, code=code, adapters=arguments.adapter)
        config, tokenizer = exported.model.config, exported.tokenizer
        if arguments.adapter:
            about = write_adapter_of(folder, exported)
        else:
            save_pretrained(folder, config, exported.params)
            about = f"{count_parameters(config):,} parameters as {family_for(config).architecture}"
        save_tokenizer_files(folder, tokenizer, exported.chat)
        if arguments.verify:
            verified = (verify_adapter if arguments.adapter else verify)(folder, config, exported.params)
    print(f"{about}: {arguments.out}")
    if verified is not None:
        print(verified)
    if arguments.adapter and (note := how_to_open(exported)):
        print(note)
    if exported.config.lora.rank and not arguments.adapter:
        print("the adapters were added to their maps; `jaxllm merge` proves that this keeps the tuning")
    if config.vocab_size > tokenizer.vocab_size:
        print(f"the model has {config.vocab_size:,} ids, its tokenizer uses {tokenizer.vocab_size:,} of them")
    if config.separator is not None:
        print("transformers lets a text attend to documents before it; this model was trained without")
