"""The weights of an imported run, in one safetensors file under our own parameter paths."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.errors import InputError
from jaxllm.gpt import GPT
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors
from jaxllm.validate import shown

FORMAT = {"format": "jaxllm parameters", "version": "1"}


def write_weights(path: Path, params: Any) -> None:
    """Parameters under their paths, each in bfloat16 or float16 where that loses nothing, with a sum over all bytes."""
    tensors = {"/".join(name): _narrowest(np.asarray(leaf)) for name, leaf in sorted(flatten_dict(params).items())}
    write_tensors(path, tensors, FORMAT | {"sha256": _sum(tensors)})


def _narrowest(x: np.ndarray) -> np.ndarray:
    for dtype in (ml_dtypes.bfloat16, np.float16):
        with np.errstate(over="ignore"):
            narrow = x.astype(dtype)
        if np.array_equal(narrow.astype(x.dtype), x):
            return narrow
    return x


def _sum(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 of names and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\0")
        total.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8))
    return total.hexdigest()


def read_weights(path: Path, config: GPTConfig) -> Any:
    """What `write_weights` wrote, as float32. Raises InputError where it is damaged or of another model."""
    header = read_header(path)
    said = dict(header.metadata)
    wanted = said.pop("sha256", "")
    if said != FORMAT:
        raise InputError(f"{path} is of another version than this jaxllm reads: {shown(said)}; import it again.")
    tensors = {name: read_tensor(path, tensor) for name, tensor in header.tensors.items()}
    if _sum(tensors) != wanted:
        raise InputError(f"{path} is damaged: its bytes are not those that were written; import it again.")
    shapes = flatten_dict(_shapes(config), sep="/")
    if {name: x.shape for name, x in tensors.items()} != {name: x.shape for name, x in shapes.items()}:
        raise InputError(f"{path} holds the parameters of another model than config.toml describes; import it again.")
    return unflatten_dict({tuple(name.split("/")): x.astype(np.float32) for name, x in tensors.items()})


def _shapes(config: GPTConfig) -> Any:
    return jax.eval_shape(GPT(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]
