"""A model's initial parameters: those of `model.init`, from a program that XLA compiles faster.

In `model.init` every weight matrix has two copies of the random generator, one of them for its key, and XLA compiles
each copy. Here all keys are made together, and all matrices of one shape are drawn together.
"""

import hashlib
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import config as flax_config
from flax.linen.initializers import normal
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Int, Key

from jaxllm.array import Array
from jaxllm.config import GPTConfig
from jaxllm.gpt import traced_once
from jaxllm.layers import INIT_STD, hidden_std, residual_std

RESIDUAL = ("output", "down")  # maps whose results are added to the residual stream
Path = tuple[str, ...]


def init_params(model: Any, key: Key[Array, ""], tokens: Int[Array, "B T"]) -> Any:
    """`model.init(key, tokens)["params"]` of a `GPT`, equal to the bit; call it under `jax.jit`."""
    if model.config.block is not None:  # its parameters may begin in other ways
        return model.init(key, tokens)["params"]
    shapes = flatten_dict(jax.eval_shape(traced_once(model).init, key, tokens)["params"])
    params = {path: jnp.full(leaf.shape, path[-1] == "scale", leaf.dtype) for path, leaf in shapes.items()}
    drawn = [path for path in shapes if path[-1] in ("kernel", "kernels", "table")]
    keys = jax.vmap(partial(jax.random.fold_in, key))(np.array([_fold(path) for path in drawn], np.uint32))
    alike: dict[Any, list[int]] = {}
    for i, path in enumerate(drawn):
        alike.setdefault((shapes[path].shape, shapes[path].dtype, _std(model.config, path)), []).append(i)
    for (shape, dtype, std), places in alike.items():
        values = jax.vmap(partial(normal(std, dtype), shape=shape))(keys[np.array(places)])
        values = jax.lax.optimization_barrier(values)  # or XLA would compile it into each use again
        params |= {drawn[i]: value for i, value in zip(places, values, strict=True)}
    return unflatten_dict(params)


def _std(config: GPTConfig, path: Path) -> float:
    if path[-2] in RESIDUAL:
        return residual_std(config.n_layers, config.zero_init, config.width_ratio)
    if path[0].startswith("block_"):
        return hidden_std(config.width_ratio)
    return 0.0 if config.zero_init and path[-2] in ("head", "classifier") else INIT_STD


def _fold(path: Path) -> int:
    """What flax folds into the key of the first parameter that the module at path[:-1] creates, which it numbers 1."""
    separator = b"\0" if flax_config.flax_fix_rng_separator else b""
    parts = [*(name.encode() for name in path[:-1]), b"\1"]
    return int.from_bytes(hashlib.sha1(b"".join(separator + part for part in parts)).digest()[:4], "big")
