"""A Hugging Face folder: config.json, and the tensors of model.safetensors or of the shards that an index names.

transformers also reads the pickles of pytorch_model.bin, which run code; here they are refused.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pretrained.safetensors import read_header, read_tensor
from jaxllm.pretrained.tensor_file import Tensor
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_json
from jaxllm.utils.validate import shown

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
DTYPES = ("F32", "BF16", "F16", "F64")  # of weights
PART = re.compile(r".*-(\d+)-of-(\d+)\.safetensors")
Tensors = dict[str, tuple[Path, Tensor]]  # by name: the file, and where in it


class Folder(NamedTuple):
    """What a folder holds; no tensor is read yet."""

    path: Path
    config: Any
    tensors: Tensors

    def read(self, name: str) -> np.ndarray:
        """A tensor as float32, or float64 where the file is."""
        x = read_tensor(*self.tensors[name])
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


def open_folder(path: Path) -> Folder:
    """The folder's config and where its tensors are.

    Raises InputError for files that are missing, damaged or not inside the folder, and for numbers of other types.
    """
    if not (path / CONFIG).exists():
        hint = "give the GGUF file in it" if any(path.glob("*.gguf")) else "give the folder of a Hugging Face model"
        raise InputError(f"{path} has no {CONFIG}; {hint}.")
    config = read_json(path / CONFIG, CONFIG)
    tensors = _tensors(path)
    for name, (file, tensor) in tensors.items():
        if tensor.dtype not in DTYPES:
            raise InputError(
                f"tensor {shown(name)} of {file} is of type {tensor.dtype}, but weights are read as "
                f"{', '.join(DTYPES)}; use a model that is not quantised."
            )
    return Folder(path, config, tensors)


def check_is_model(file: Path) -> None:
    """Raises InputError for one of a folder's files, given in place of the folder."""
    if part := PART.fullmatch(file.name):
        raise InputError(
            f"{file} is part {int(part[1])} of the {int(part[2])} parts of a model's weights; give the folder with all "
            f"of them, {INDEX} and {CONFIG}."
        )
    if file.suffix == ".safetensors":
        raise InputError(f"{file} holds weights alone; give the folder with it and its {CONFIG}.")
    if file.name in (CONFIG, INDEX):
        raise InputError(f"{file} holds no weights; give the folder with it.")


def _tensors(path: Path) -> Tensors:
    if (path / WEIGHTS).exists():
        return _of_file(path / WEIGHTS)
    if (path / INDEX).exists():
        return _of_shards(path)
    if parts := [part for file in path.iterdir() if (part := PART.fullmatch(file.name))]:
        raise InputError(
            f"{path} has {len(parts)} of the {int(parts[0][2])} parts of its weights, but no {INDEX}; download the "
            "rest too."
        )
    if any(path.glob("pytorch_model*.bin")):
        raise InputError(
            f"{path} has its weights in pytorch_model.bin only, a pickle, which could run any code; open it with "
            "transformers and save it again, as safetensors."
        )
    raise InputError(f"{path} has neither {WEIGHTS} nor {INDEX}; download it again.")


def _of_file(file: Path) -> Tensors:
    return {name: (file, tensor) for name, tensor in read_header(file).tensors.items()}


def _of_shards(path: Path) -> Tensors:
    index = read_json(path / INDEX, INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{path / INDEX} has no weight_map from tensors to files; download it again.")
    tensors: Tensors = {}
    for shard in dict.fromkeys(shards.values()):
        # A name alone; where it is a link, as in the hub's cache, that is the user's own.
        if shard != Path(shard).name or not shard.endswith(".safetensors") or "\0" in shard or "\\" in shard:
            raise InputError(f"{path / INDEX} names the shard {shown(shard)}, which is no file of that folder.")
        if not (path / shard).exists():
            raise InputError(f"{path} lacks the shard {shown(shard)} that {INDEX} names; download it too.")
        tensors |= {name: place for name, place in _of_file(path / shard).items() if shards.get(name) == shard}
    if missing := [name for name in shards if name not in tensors]:
        raise InputError(
            f"{path / INDEX} puts {len(missing):,} tensors, among them {shown(missing[0])}, into shards that do not "
            "hold them; download it again."
        )
    return tensors
