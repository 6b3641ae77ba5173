"""`jaxllm export RUN --out FILE.gguf`: one file with settings, weights, tokenizer and chat template, for llama.cpp."""

import argparse
from collections import Counter
from pathlib import Path

from jaxllm.gpt import count_parameters
from jaxllm.pretrained.gguf_encode import check_dtype
from jaxllm.pretrained.gguf_save import save_gguf
from jaxllm.pretrained.gguf_write_config import gguf_family
from jaxllm.pretrained.load import load_pretrained
from jaxllm.utils.errors import InputError

from ..ideas import load_code
from ..outputs import new_file
from ..runs.load import TrainedRun, load_run
from .export_verify import BOUND, compared, our_logits

ENDING = ".gguf"
BOUNDS = {"float32": BOUND, "float16": 0.1, "q8_0": 0.1}  # of the largest difference, relative to the largest logit


def is_gguf(out: str) -> bool:
    """Whether `--out` names a GGUF file."""
    return out.lower().endswith(ENDING)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises InputError for options that do not belong together."""
    if not is_gguf(arguments.out):
        if arguments.dtype is not None:
            raise InputError(
                f"--dtype is {arguments.dtype!r}, but a folder keeps the dtypes of the run; give --out FILE.gguf, or "
                "leave --dtype out."
            )
        return
    if arguments.dtype is not None:
        check_dtype(arguments.dtype)
    if arguments.adapter:
        raise InputError(
            "--adapter writes a folder that PEFT opens, but --out names a GGUF file; leave --adapter out to add the "
            "adapters to the weights, or give --out FOLDER."
        )


def write_gguf(arguments: argparse.Namespace) -> None:
    """Write the file, which appears when it is complete and, with --verify, was compared."""
    out, dtype, verified = Path(arguments.out), arguments.dtype or "float32", None
    with new_file(out) as file:
        exported = load_run(arguments.path, arguments.step, code=load_code(arguments.code))
        config, params, name = exported.model.config, exported.params, Path(arguments.path).resolve().name
        types = save_gguf(file, config, params, exported.tokenizer, exported.chat, dtype, name)
        if arguments.verify:
            verified = compared(
                "jaxllm.load_pretrained", lambda tokens: our_logits(*load_pretrained(file), tokens), config, params,
                BOUNDS[dtype],
            )  # fmt: skip
    kinds = Counter(types.values())
    held = ", ".join(f"{n:,} tensors in {kind}" for kind, n in sorted(kinds.items()))
    print(f"{count_parameters(config):,} parameters as {gguf_family(config)[1].architecture}, {held}: {out}")
    if verified is not None:
        print(verified)
    report(exported, False, "llama.cpp")


def report(exported: TrainedRun, as_adapter: bool, reader: str) -> None:
    """Print what a user of the exported model may not expect of it."""
    config, tokenizer = exported.model.config, exported.tokenizer
    if exported.config.lora.rank and not as_adapter:
        print("the adapters were added to their maps; `jaxllm merge` proves that this keeps the tuning")
    if config.vocab_size > tokenizer.vocab_size:
        print(f"the model has {config.vocab_size:,} ids, its tokenizer uses {tokenizer.vocab_size:,} of them")
    if config.separator is not None:
        print(f"{reader} lets a text attend to documents before it; this model was trained without")
