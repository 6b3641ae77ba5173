"""A model's initial parameters: those of `model.init`, from a program that XLA compiles faster.

In `model.init` every weight matrix has its own copy of the random generator, and XLA compiles each copy. Here all
matrices of one shape are drawn together.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax.core.scope import LazyRng
from flax.linen.initializers import normal
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Int, Key

from jaxllm.array import Array
from jaxllm.config import GPTConfig
from jaxllm.layers import INIT_STD, residual_std

RESIDUAL = ("output", "down")  # maps whose results are added to the residual stream
Path = tuple[str, ...]


def init_params(model: Any, key: Key[Array, ""], tokens: Int[Array, "B T"]) -> Any:
    """`model.init(key, tokens)["params"]` of a `GPT`, equal to the bit; call it under `jax.jit`."""
    shapes = flatten_dict(jax.eval_shape(model.init, key, tokens)["params"])
    alike: dict[Any, list[Path]] = {}
    for path, leaf in shapes.items():
        if path[-1] in ("kernel", "table"):
            alike.setdefault((leaf.shape, leaf.dtype, _std(model.config, path)), []).append(path)
    params = {path: jnp.full(leaf.shape, path[-1] == "scale", leaf.dtype) for path, leaf in shapes.items()}
    for (shape, dtype, std), paths in alike.items():
        keys = jnp.stack([_key(key, path) for path in paths])
        drawn = jax.vmap(partial(normal(std, dtype), shape=shape))(keys)
        drawn = jax.lax.optimization_barrier(drawn)  # or XLA would compile it into each use again
        params |= dict(zip(paths, drawn, strict=True))
    return unflatten_dict(params)


def _std(config: GPTConfig, path: Path) -> float:
    return residual_std(config.n_layers) if path[-2] in RESIDUAL else INIT_STD


def _key(key: Array, path: Path) -> Array:
    """The key of the first parameter that the module at path[:-1] creates, which flax numbers 1."""
    return LazyRng.create(key, *path[:-1], 1).as_jax_rng()
