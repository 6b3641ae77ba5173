"""`save_pretrained`: a folder that transformers opens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.family import Family
from jaxllm.pretrained.hf_config import family_for, write_hf_config
from jaxllm.pretrained.hf_folder import CONFIG, GENERATION_CONFIG, WEIGHT_DTYPES, WEIGHTS
from jaxllm.pretrained.parameter_map import check_shapes, tensor_placements, to_tensor
from jaxllm.pretrained.safetensors import DTYPES, write_tensors
from jaxllm.pretrained.tensor_file import is_finite
from jaxllm.utils.errors import InputError, shown
from jaxllm.utils.files import replace_file

# None, because a class of transformers has ids of its own as the default.
NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def save_pretrained(path: str | Path, config: GPTConfig, params: Any) -> None:
    """Write config.json, generation_config.json and model.safetensors into the folder `path`.

    transformers 4 and 5 open the folder, and compute the logits of `GPT(config)` for one document. The architecture is
    the first of `jaxllm.pretrained.families` that can express the config.

    `params` has the paths and shapes of `GPT(config).init`, as NumPy or JAX arrays in float32, bfloat16, float16 or
    float64; each is written in its dtype. Positions "rotary_interleaved" are written in half-split order, which gives
    the same logits. So does the final norm of a model with `mup_base_width`, whose parameters are written divided by
    the width ratio. A `separator` is not written, because transformers attends across documents. The folder is created;
    if it exists, it must be empty.

    Raises InputError if no family can express the config, if the parameters are not those of the config, are of another
    dtype or not finite, or if the folder is not empty or cannot be written.
    """
    save_as(family_for(config), Path(path), config, params)


def save_as(family: Family, path: Path, config: GPTConfig, params: Any) -> None:
    """`save_pretrained` as a family that can express the config."""
    flat = without_mup(checked_parameters(params, config), config)
    dtype = np.result_type(*(leaf.dtype for leaf in flat.values())).name
    placements = tensor_placements(family.folder, config)
    tensors = {name: to_tensor(family.folder, config, placement, flat) for name, placement in placements.items()}
    try:
        create_folder(path)
        write_tensors(path / WEIGHTS, tensors, {"format": "pt"})  # transformers 4 requires this entry
        write_json(path / GENERATION_CONFIG, NO_TOKENS)
        write_json(path / CONFIG, write_hf_config(family, config, dtype) | NO_TOKENS)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror}; choose another folder.") from None


def create_folder(path: Path) -> None:
    """Create a folder to write into. Raises InputError if it exists and is not empty, OSError if it cannot be made."""
    if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not an empty folder; choose another one.")
    path.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, which appears only when it is complete. Raises OSError."""
    replace_file(path, json.dumps(content, indent=2).encode())


def without_mup(flat: dict[str, np.ndarray], config: GPTConfig) -> dict[str, np.ndarray]:
    """The parameters of the same function without muP: the head reads the final norm, which is linear in its own."""
    scale = 1 / config.width_ratio
    return {
        path: leaf * leaf.dtype.type(scale) if path.startswith("norm_final/") else leaf for path, leaf in flat.items()
    }


def checked_parameters(params: Any, config: GPTConfig) -> dict[str, np.ndarray]:
    """The parameters by path. Raises InputError if they are not those of the config, or cannot be written."""
    if not isinstance(params, Mapping):
        raise InputError(f"params is {shown(params)}, but must be a nested dict of arrays.")
    flat = {"/".join(map(str, path)): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    found = {path: leaf.shape for path, leaf in flat.items()}
    check_shapes(parameter_shapes(config), found, "params", "pass the parameters of this config")
    for path, leaf in flat.items():
        if leaf.dtype not in (DTYPES[name] for name in WEIGHT_DTYPES):
            raise InputError(f"{path} is of type {leaf.dtype}, but weights are float32, bfloat16, float16 or float64.")
        if not is_finite(leaf):
            raise InputError(
                f"params holds NaN or an infinite number in {shown(path)}; train it again, or use another checkpoint."
            )
    return flat
