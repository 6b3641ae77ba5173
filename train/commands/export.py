"""`jaxllm export`: writes a run as a folder that transformers opens, or as a GGUF file (`export_gguf`)."""

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
from .export_gguf import check_options, is_gguf, report, write_gguf
from .export_verify import verify
from .options import Parser, add_code, add_run


def add_options(parser: Parser) -> None:
    """The options of the command."""
    parser.runs(run, "jaxllm export runs/first --out exported --verify")
    add_run(parser)
    parser.add_argument(
        "--out", required=True, metavar="FOLDER|FILE.gguf", help="folder to make, or a GGUF file for llama.cpp"
    )
    parser.add_argument(
        "--dtype", metavar="TYPE", help="of the weights in a GGUF file: float32 (default), float16 or q8_0"
    )
    parser.add_argument(
        "--adapter", action="store_true", help="write a run's adapters alone, as a folder that PEFT opens"
    )
    parser.add_argument(
        "--verify", action="store_true",
        help="open the folder with transformers (and PEFT), or without it, and a GGUF file always, with jaxllm, and "
        "compare its logits with the run's; exit 1 if they differ, and leave nothing",
    )  # fmt: skip
    add_code(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the folder or the file, which appears when it is complete."""
    check_options(arguments)
    if is_gguf(arguments.out):
        write_gguf(arguments)
    else:
        _write_folder(arguments)


def _write_folder(arguments: argparse.Namespace) -> None:
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
    report(exported, arguments.adapter, "transformers")
