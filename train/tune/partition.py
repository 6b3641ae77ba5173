"""Which parameters change: all, those of a pattern, or adapters beside frozen maps.

A state's `params` hold what changes, its `frozen` the rest. Only the first have gradients, an optimizer's state and a
place in checkpoints: a frozen parameter costs the memory of its value. (Levanter and equinox partition a module by a
filter in the same way; here the parts are plain nested dicts, joined by path.)
"""

import math
import re
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.gpt import parameter_shapes
from jaxllm.lora import adapted_paths, attach, init_adapter, merge, quantise_base
from jaxllm.utils.errors import InputError

from ..config import RunConfig
from .config import LoraConfig

ALWAYS = "classifier/"  # begins at random, so a run that adapts or trains a part trains it too


@dataclass(frozen=True)
class Partition:
    """The pattern of the parameters that change in full, and the adapters."""

    train: str | None = None
    lora: LoraConfig = LoraConfig()

    def adapted(self, params: Any) -> list[str]:
        """The paths of the kernels that have an adapter. Raises InputError as `jaxllm.lora.adapted_paths`."""
        shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(params, sep="/").items()}
        return adapted_paths(shapes, self.lora.targets, self.lora.rank) if self.lora.rank else []

    def split(self, params: Any, key: Array) -> tuple[Any, Any]:
        """What changes, with new adapters, and what is frozen. Raises InputError where a pattern matches nothing."""
        paths = self.adapted(params)
        frozen = flatten_dict(quantise_base(params, paths) if self.lora.base == "int8" else params, sep="/")
        changing = {path: frozen.pop(path) for path in list(frozen) if self._changes(path) and path not in paths}
        if self.train is not None and not any(re.search(self.train, path) for path in changing):
            if adapted := [path for path in paths if re.search(self.train, path)]:
                raise InputError(
                    f"tune.train is {self.train!r}, which matches {adapted[0]}, but that has an adapter; "
                    "narrow lora.targets, or leave tune.train out."
                )
            raise InputError(
                f"tune.train is {self.train!r}, which matches none of the parameters, such as "
                f"{', '.join(list(frozen)[:3])}; change the pattern."
            )
        if paths:
            shapes = {path: tuple(frozen[path].shape) for path in paths}
            changing |= flatten_dict(init_adapter(key, shapes, self.lora.rank), sep="/")
        return unflatten_dict(changing, sep="/"), unflatten_dict(frozen, sep="/")

    def _changes(self, path: str) -> bool:
        return path.startswith(ALWAYS) or (self.train is not None and re.search(self.train, path) is not None)

    def join(self, params: Any, frozen: Any, key: Array | None = None) -> Any:
        """The parameters that the model is applied to, with `LoraKernel`s; a key drops inputs of the adapters."""
        changing, rest = flatten_dict(params, sep="/"), flatten_dict(frozen, sep="/")
        adapter = {path: leaf for path, leaf in changing.items() if path.endswith(("/kernel/a", "/kernel/b"))}
        whole = unflatten_dict(rest | {path: x for path, x in changing.items() if path not in adapter}, sep="/")
        if not adapter:
            return whole
        return attach(whole, unflatten_dict(adapter, sep="/"), self.lora.scale, self.lora.dropout, key)


def partition_of(config: RunConfig) -> Partition | None:
    """The partition of a run; None where all parameters change."""
    if config.tune.train is None and not config.lora.rank:
        return None
    return Partition(config.tune.train, config.lora)


def joined(partition: Partition | None, state: Any, key: Array | None = None) -> Any:
    """The parameters of a state as the model is applied to them."""
    return state.params if partition is None else partition.join(state.params, state.frozen, key)


def merged(partition: Partition | None, state: Any) -> Any:
    """The parameters of a state as arrays alone, each adapter added to its map."""
    return state.params if partition is None else merge(jax.device_get(joined(partition, state)))


def n_changing(model: GPTConfig, parts: Partition) -> int:
    """How many numbers of a model change in training, those of adapters among them."""
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in parameter_shapes(model).items()}
    changing, _ = jax.eval_shape(parts.split, unflatten_dict(shapes, sep="/"), jax.eval_shape(jax.random.key, 0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(changing))
