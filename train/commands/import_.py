"""A run folder whose weights come from elsewhere: `jaxllm import` makes it, and every command that reads runs reads it.

transformers keeps a model's files as its own classes name them; here they become a run like any other: the config with
its model section, our tokenizer and our parameter names, so that nothing behind `load_run` knows where they came from.
What a run does not have is there too: `weights.safetensors` in place of checkpoints, and `pretrained.json`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from jaxllm.gpt import count_parameters
from jaxllm.pretrained.chat import ChatFormat
from jaxllm.pretrained.fetch import fetch
from jaxllm.pretrained.gguf import read_header as read_gguf
from jaxllm.pretrained.gguf_tokenizer import read_gguf_tokenizer
from jaxllm.pretrained.hf_config import family_for
from jaxllm.pretrained.hf_tokenizer import load_tokenizer_files, save_tokenizer_files
from jaxllm.pretrained.load import open_pretrained
from jaxllm.pretrained.save import save_pretrained
from jaxllm.tokenizers import Tokenizer
from jaxllm.utils.errors import InputError

from ..config import ModelConfig, RunConfig, TrainConfig
from ..runs.folder import RunFolder
from ..runs.imported_weights import write_weights
from ..runs.load import load_run


def import_command(source: str, out: str) -> None:
    """`jaxllm import`: the whole folder appears at once, or not at all."""
    _check_free(Path(out))  # before anything is downloaded
    path = fetch(source)
    opened = open_pretrained(path)
    config = opened.config
    opened.check()  # before a tokenizer is made for as many ids as it claims to have
    tokenizer, chat = _tokenizer(path, config.vocab_size)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer of {source} has {tokenizer.vocab_size:,} ids, but its model only {config.vocab_size:,}; "
            "use the tokenizer that the model was published with."
        )
    with appearing(Path(out)) as aside:
        run = RunConfig(model=ModelConfig(**asdict(config)), train=TrainConfig(batch_size=1))
        folder = RunFolder(aside)
        folder.create(run, tokenizer)
        chat.save(folder.pretrained)
        write_weights(folder.weights, opened.parameters(), source)
    talks = "with" if chat.chat_template else "without"
    print(
        f"{count_parameters(config):,} parameters, {config.n_layers} layers, context {config.context_length:,}, "
        f"{tokenizer.vocab_size:,} ids, {talks} a chat template: {out}"
    )


def _tokenizer(path: Path, vocab_size: int) -> tuple[Tokenizer, ChatFormat]:
    if path.is_dir():
        return load_tokenizer_files(path, vocab_size)
    return read_gguf_tokenizer(read_gguf(path).metadata, path)


def export_command(path: str, step: str | None, out: str) -> None:
    """`jaxllm export`: a folder that transformers opens, which appears at once, or not at all."""
    with appearing(Path(out)) as aside:
        run = load_run(path, step)
        config, tokenizer = run.model.config, run.tokenizer
        save_pretrained(aside, config, run.params)
        save_tokenizer_files(aside, tokenizer, run.chat)
    print(f"{count_parameters(config):,} parameters as {family_for(config).architecture}: {out}")
    if config.vocab_size > tokenizer.vocab_size:
        print(f"the model has {config.vocab_size:,} ids, its tokenizer uses {tokenizer.vocab_size:,} of them")
    if config.separator is not None:
        print("transformers lets a text attend to documents before it; this model was trained without")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name when all is written; after an exception there is none.

    Raises InputError where something has that name already, or nothing can be written there.
    """
    _check_free(path)
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=parent))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write into {parent}: {error}; choose another folder with --out.") from None
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())  # as mkdir would have made it
        os.replace(aside, path)  # which can take the place of an empty folder, and of nothing else
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_free(path: Path) -> None:
    try:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} is there already; choose another folder with --out.")
    except OSError as error:
        raise InputError(f"--out {str(path)!r} cannot be used: {error.strerror}.") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
