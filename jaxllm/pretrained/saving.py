"""Weights out: `save_pretrained` writes a folder that transformers opens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.errors import InputError
from jaxllm.files import replace_file
from jaxllm.pretrained.folder import CONFIG, DTYPES, WEIGHTS
from jaxllm.pretrained.places import check_shapes, parameter_shapes, places_of, to_theirs
from jaxllm.pretrained.safetensors import DTYPES as NUMPY
from jaxllm.pretrained.safetensors import write_tensors
from jaxllm.pretrained.settings import family_for, write_settings


def save_pretrained(path: str | Path, config: GPTConfig, params: Any) -> None:
    """Write config.json and model.safetensors into a folder, which transformers 4 and 5 open for the same logits.

    The family is the first whose options are the config's. Parameters may be float32, bfloat16, float16 or float64 and
    are written so, in one file; positions "rotary_interleaved" are written in half-split order, a `separator` is not:
    transformers attends across documents. The folder is made; files of the same names are replaced.

    Raises InputError where no family is such a model, the parameters are not those of the config, or the folder cannot
    be written.
    """
    path, family = Path(path), family_for(config)
    flat = _flat(params, config)
    dtype = np.result_type(*(leaf.dtype for leaf in flat.values())).name
    places = places_of(family.folder, config)
    tensors = {name: to_theirs(family.folder, config, place, flat) for name, place in places.items()}
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_tensors(path / WEIGHTS, tensors, {"format": "pt"})  # without which transformers refuses the file
        content = json.dumps(write_settings(family, config, dtype), indent=2)
        replace_file(path / CONFIG, content.encode())
    except OSError as error:
        raise InputError(f"cannot write into {path}: {error.strerror}; choose another folder.") from None


def _flat(params: Any, config: GPTConfig) -> dict[str, np.ndarray]:
    """The parameters by path. Raises InputError where they are not the config's."""
    flat = {"/".join(map(str, path)): np.asarray(leaf) for path, leaf in flatten_dict(params).items()}
    there = {path: leaf.shape for path, leaf in flat.items()}
    check_shapes(parameter_shapes(config), there, "params", "give those that belong together")
    for path, leaf in flat.items():
        if leaf.dtype not in (NUMPY[name] for name in DTYPES):
            raise InputError(f"{path} is of type {leaf.dtype}, but weights are float32, bfloat16, float16 or float64.")
    return flat
