"""The weights of an imported run, in one safetensors file under jaxllm's parameter paths."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax.traverse_util import flatten_dict
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.pretrained.parameter_map import check_shapes, nested
from jaxllm.pretrained.safetensors import read_header, read_tensor, write_tensors
from jaxllm.utils.errors import InputError, printable, shown
from jaxllm.utils.processes import usable_cores

MERGED = "merged from "  # begins the source of weights that hold what was an adapter
FORMAT = {"format": "jaxllm parameters", "version": "1"}


def write_weights(path: Path, params: Any, source: str = "") -> None:
    """Write parameters under their paths, each in bfloat16 or float16 where that is exact, with one sha256 over all.

    `source` says where they come from; it is stored in the file and not read.
    """
    tensors = {"/".join(name): _narrowest(np.asarray(leaf)) for name, leaf in sorted(flatten_dict(params).items())}
    write_tensors(path, tensors, FORMAT | {"source": printable(source), "sha256": checksum(tensors)})


def _narrowest(x: np.ndarray) -> np.ndarray:
    for dtype in (ml_dtypes.bfloat16, np.float16):
        with np.errstate(over="ignore"):
            narrow = x.astype(dtype)
        if np.array_equal(narrow.astype(x.dtype), x):
            return narrow
    return x


def checksum(tensors: Mapping[str, np.ndarray]) -> str:
    """The sha256 of names and bytes, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\0")
        total.update(np.ascontiguousarray(tensors[name]).reshape(-1).view(np.uint8))
    return total.hexdigest()


def read_weights(path: Path, config: GPTConfig) -> Any:
    """The parameters that `write_weights` wrote, in float32. Raises InputError if damaged or of another model."""
    header = read_header(path)
    version = {key: header.metadata.get(key) for key in FORMAT}
    if version != FORMAT:
        raise InputError(f"{path} is of another version than this jaxllm reads: {shown(version)}; import it again.")
    tensors = {name: read_tensor(path, tensor) for name, tensor in header.tensors.items()}
    with ThreadPoolExecutor(usable_cores()) as pool:  # NumPy and sha256 release Python's lock
        computed = pool.submit(checksum, tensors)
        arrays = dict(zip(tensors, pool.map(_in_float32, tensors.values()), strict=True))
    if computed.result() != header.metadata.get("sha256"):
        raise InputError(f"{path} is damaged: its bytes are not those that were written; import it again.")
    check_shapes(parameter_shapes(config), {name: x.shape for name, x in tensors.items()}, str(path), "import it again")
    return nested(arrays)


def _in_float32(x: np.ndarray) -> Array:
    return jnp.array(x.astype(np.float32))  # cast by NumPy, because JAX compiles a cast for each shape
