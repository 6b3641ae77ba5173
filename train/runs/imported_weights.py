"""The weights of an imported run, in one safetensors file under our own parameter paths."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict

from jaxllm.config import GPTConfig
from jaxllm.utils.errors import InputError, printable
from jaxllm.pretrained.parameter_map import check_shapes, nested, parameter_shapes
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors
from jaxllm.utils.validate import shown

FORMAT = {"format": "jaxllm parameters", "version": "1"}


def write_weights(path: Path, params: Any, source: str = "") -> None:
    """Parameters under their paths, each in bfloat16 or float16 where that loses nothing, with a sum over all bytes.

    `source` says where they come from, for whoever looks.
    """
    tensors = {"/".join(name): _narrowest(np.asarray(leaf)) for name, leaf in sorted(flatten_dict(params).items())}
    write_tensors(path, tensors, FORMAT | {"source": printable(source), "sha256": _sum(tensors)})


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
    """What `write_weights` wrote, in float32, for JAX. Raises InputError where it is damaged or of another model."""
    header = read_header(path)
    said = {key: header.metadata.get(key) for key in FORMAT}
    if said != FORMAT:
        raise InputError(f"{path} is of another version than this jaxllm reads: {shown(said)}; import it again.")
    tensors = {name: read_tensor(path, tensor) for name, tensor in header.tensors.items()}
    if _sum(tensors) != header.metadata.get("sha256"):
        raise InputError(f"{path} is damaged: its bytes are not those that were written; import it again.")
    check_shapes(parameter_shapes(config), {name: x.shape for name, x in tensors.items()}, str(path), "import it again")
    return nested({name: jnp.array(x, jnp.float32) for name, x in tensors.items()})
