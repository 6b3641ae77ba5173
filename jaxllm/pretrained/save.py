"""Weights out: `save_pretrained` writes a folder that transformers opens."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.pretrained.hf_config import family_for, write_hf_config
from jaxllm.pretrained.hf_folder import CONFIG, DTYPES, WEIGHTS
from jaxllm.pretrained.parameter_map import check_shapes, parameter_shapes, tensor_placements, to_tensor
from jaxllm.pretrained.safetensors import DTYPES as NUMPY
from jaxllm.pretrained.safetensors import write_tensors
from jaxllm.pretrained.tensor_file import is_finite
from jaxllm.utils.errors import InputError
from jaxllm.utils.files import replace_file
from jaxllm.utils.validate import shown

GENERATION = "generation_config.json"
# None, rather than the ids that a class of transformers has as its default.
NO_TOKENS = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))


def save_pretrained(path: str | Path, config: GPTConfig, params: Any) -> None:
    """Write config.json, generation_config.json and model.safetensors: a folder that transformers 4 and 5 open for the
    same logits.

    The family is the first whose options are the config's. Parameters may be float32, bfloat16, float16 or float64 and
    are written so, in one file; positions "rotary_interleaved" are written in half-split order, a `separator` is not:
    transformers attends across documents. The folder is made, or is empty.

    Raises InputError where no family is such a model, the parameters are not those of the config or not finite, or the
    folder cannot be written or holds anything.
    """
    path, family = Path(path), family_for(config)
    flat = _flat(params, config)
    dtype = np.result_type(*(leaf.dtype for leaf in flat.values())).name
    places = tensor_placements(family.folder, config)
    tensors = {name: to_tensor(family.folder, config, place, flat) for name, place in places.items()}
    try:
        if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} is there and not empty; choose another folder.")
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / WEIGHTS, tensors, {"format": "pt"})  # without which transformers 4 refuses the file
        _write_json(path / GENERATION, NO_TOKENS)
        _write_json(path / CONFIG, write_hf_config(family, config, dtype) | NO_TOKENS)
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror}; choose another folder.") from None


def _write_json(path: Path, content: Any) -> None:
    replace_file(path, json.dumps(content, indent=2).encode())


def _flat(params: Any, config: GPTConfig) -> dict[str, np.ndarray]:
    """The parameters by path. Raises InputError where they are not the config's."""
    if not isinstance(params, Mapping):
        raise InputError(f"params is {shown(params)}, but must be a nested dict of arrays.")
    flat = {"/".join(map(str, path)): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    there = {path: leaf.shape for path, leaf in flat.items()}
    check_shapes(parameter_shapes(config), there, "params", "give those that belong together")
    for path, leaf in flat.items():
        if leaf.dtype not in (NUMPY[name] for name in DTYPES):
            raise InputError(f"{path} is of type {leaf.dtype}, but weights are float32, bfloat16, float16 or float64.")
        if not is_finite(leaf):
            raise InputError(
                f"params holds NaN or an infinite number in {shown(path)}; train it again, or use another checkpoint."
            )
    return flat
