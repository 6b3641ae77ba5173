"""A run folder whose weights come from elsewhere: `jaxllm import` makes it, and every command that reads runs reads it.

transformers keeps a model's files as its own classes name them; here they become a run like any other: the config with
its model section, our tokenizer and our parameter names, so that nothing behind `load_run` knows where they came from.
What a run does not have is there too: `weights.safetensors` in place of checkpoints, and `pretrained.json`.
"""

import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from jaxllm.pretrained.hub import fetch
from jaxllm.pretrained.loading import load_pretrained
from jaxllm.pretrained.saving import save_pretrained

from jaxllm.errors import InputError
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.gguf import read_header as read_gguf
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.tokenizer_files import load_tokenizer_files, save_tokenizer_files
from jaxllm.tokenizers import BPETokenizer, CharTokenizer, Tokenizer
from train.config import ModelConfig, RunConfig, TrainConfig
from train.folder import RunFolder
from train.weights import write_weights


def import_command(source: str, out: str) -> None:
    """`jaxllm import`: the whole folder appears at once, or not at all."""
    folder = RunFolder(out)
    folder.check_new()
    path = fetch(source)
    config, params = load_pretrained(path)
    tokenizer, chat = _tokenizer(path, config.vocab_size)
    run = RunConfig(model=ModelConfig(**asdict(config)), train=TrainConfig(batch_size=1))
    parent = folder.path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.path.name}.", dir=parent))
    except OSError as error:
        raise InputError(f"cannot write into {parent}: {error.strerror}; choose another folder with --out.") from None
    try:
        made = RunFolder(aside)
        chat.save(made.pretrained)
        write_weights(made.weights, params)
        made.create(run, tokenizer)
        aside.chmod(0o777 & ~_umask())  # as mkdir would have made it
        folder.check_new()
        os.replace(aside, folder.path)  # an empty folder in its place may be replaced
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    n = sum(np.size(leaf) for leaf in flatten_dict(params).values())
    talks = "with" if chat.chat_template else "without"
    print(
        f"{n:,} parameters, {config.n_layers} layers, context {config.context_length:,}, {tokenizer.vocab_size:,} ids, "
        f"{talks} a chat template: {folder.path}"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _tokenizer(path: Path, vocab_size: int) -> tuple[Tokenizer, ChatFormat]:
    if path.is_dir():
        return load_tokenizer_files(path, vocab_size)
    return read_gguf_tokenizer(read_gguf(path).metadata, path)


def export_command(path: str, step: str | None, out: str) -> None:
    """`jaxllm export`: a folder that transformers opens."""
    from train.trained import load_run

    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{out} is there and not empty; choose another folder with --out.")
    run = load_run(path, step)
    if not isinstance(run.tokenizer, BPETokenizer | CharTokenizer):
        raise InputError(
            f"{path} has a {run.tokenizer.kind} tokenizer, which Hugging Face's library has no form for; "
            "export a run with a bpe or char tokenizer."
        )
    save_pretrained(out, run.model.config, run.params)
    save_tokenizer_files(out, run.tokenizer, run.chat)
    print(f"{path}, step {run.step:,}: {out}")
