"""A Hugging Face folder: config.json, and the tensors of model.safetensors or of the shards that an index names.

Pickles such as pytorch_model.bin are refused, because opening one can run any code.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxllm.pretrained.safetensors import read_header, read_tensor
from jaxllm.pretrained.tensor_file import StoredTensor
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import read_json

CONFIG, GENERATION_CONFIG = "config.json", "generation_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHT_DTYPES = ("F32", "BF16", "F16", "F64")
SHARD = re.compile(r".*-(\d+)-of-(\d+)\.safetensors")
Tensors = dict[str, tuple[Path, StoredTensor]]  # name: the file, and the place in it


class Folder(NamedTuple):
    """The content of a folder. No tensor is in memory."""

    path: Path
    config: Any
    tensors: Tensors

    def read(self, name: str) -> np.ndarray:
        """The tensor in its stored shape, as float32, or as float64 if it is stored so."""
        x = read_tensor(*self.tensors[name])
        return x if x.dtype == np.float64 else x.astype(np.float32, copy=False)


def open_folder(path: Path) -> Folder:
    """The parsed config.json and the places of all tensors.

    Raises InputError if a file is missing, damaged or outside the folder, or if a tensor is not of WEIGHT_DTYPES.
    """
    if not (path / CONFIG).exists():
        hint = "give the GGUF file in it" if any(path.glob("*.gguf")) else "give the folder of a Hugging Face model"
        raise InputError(f"{path} has no {CONFIG}; {hint}.")
    config = read_json(path / CONFIG, CONFIG)
    tensors = _find_tensors(path)
    for name, (file, tensor) in tensors.items():
        if tensor.dtype not in WEIGHT_DTYPES:
            raise InputError(
                f"tensor {shown(name)} of {file} is of type {tensor.dtype}, but weights are read as "
                f"{', '.join(WEIGHT_DTYPES)}; use a model that is not quantised."
            )
    return Folder(path, config, tensors)


def check_is_model(file: Path) -> None:
    """Raises InputError if the file is one of a Hugging Face folder, which must be given as a whole."""
    if shard := SHARD.fullmatch(file.name):
        raise InputError(
            f"{file} is part {int(shard[1])} of the {int(shard[2])} parts of a model's weights; give the folder with "
            f"all of them, {INDEX} and {CONFIG}."
        )
    if file.suffix == ".safetensors":
        raise InputError(f"{file} holds only weights; give the folder with it and its {CONFIG}.")
    if file.name in (CONFIG, INDEX):
        raise InputError(f"{file} holds no weights; give the folder with it.")


def _find_tensors(path: Path) -> Tensors:
    if (path / WEIGHTS).exists():
        return _tensors_in(path / WEIGHTS)
    if (path / INDEX).exists():
        return _tensors_in_shards(path)
    if shards := [shard for file in path.iterdir() if (shard := SHARD.fullmatch(file.name))]:
        raise InputError(
            f"{path} has {len(shards)} of the {int(shards[0][2])} parts of its weights, but no {INDEX}; download the "
            "missing files too."
        )
    if any(path.glob("pytorch_model*.bin")):
        raise InputError(
            f"{path} has its weights only in pytorch_model.bin, a pickle, which can run any code; open it with "
            "transformers and save it again as safetensors."
        )
    raise InputError(f"{path} has neither {WEIGHTS} nor {INDEX}; download it again.")


def _tensors_in(file: Path) -> Tensors:
    return {name: (file, tensor) for name, tensor in read_header(file).tensors.items()}


def _tensors_in_shards(path: Path) -> Tensors:
    index = read_json(path / INDEX, INDEX)
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(shard, str) for shard in shards.values()):
        raise InputError(f"{path / INDEX} has no weight_map from tensors to files; download it again.")
    tensors: Tensors = {}
    for shard in dict.fromkeys(shards.values()):
        _check_shard(path, shard)
        tensors |= {name: place for name, place in _tensors_in(path / shard).items() if shards.get(name) == shard}
    if missing := [name for name in shards if name not in tensors]:
        raise InputError(
            f"{path / INDEX} assigns {len(missing):,} tensors, among them {shown(missing[0])}, to shards that do not "
            "hold them; download it again."
        )
    return tensors


def _check_shard(path: Path, shard: str) -> None:
    """Raises InputError unless the name is that of a file in the folder; it may be a link, as in the hub's cache."""
    if shard != Path(shard).name or not shard.endswith(".safetensors") or "\0" in shard or "\\" in shard:
        raise InputError(f"{path / INDEX} names the shard {shown(shard)}, which is not a file of that folder.")
    if not (path / shard).exists():
        raise InputError(f"{path} lacks the shard {shown(shard)} that {INDEX} names; download it too.")
