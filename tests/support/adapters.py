"""A small model with an adapter beside each of its maps, all parameters random."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
from models import TINY, VARIANTS, random_gpt, random_like

from jaxllm import GPT, GPTConfig, lora
from jaxllm.gpt import parameter_shapes

SCALE = 0.5


class Adapted(NamedTuple):
    """A model, its base parameters, and an adapter whose A and B are both random."""

    config: GPTConfig
    model: GPT
    params: Any
    adapter: Any


def shapes_of(config: GPTConfig, targets: str | None = None, rank: int = 2) -> dict[str, tuple[int, ...]]:
    """The shapes of the kernels that an adapter is for, by path."""
    shapes = parameter_shapes(config)
    return {path: shapes[path] for path in lora.adapted_paths(shapes, targets, rank)}


def adapted(
    variant: str = "llama", targets: str | None = None, rank: int = 2, dtype: str = "float32", **changes: Any
) -> Adapted:
    """A tiny model of a variant of `models.VARIANTS`, with these fields of its config changed."""
    config = replace(TINY, **VARIANTS[variant] | changes)
    model, params = random_gpt(config, dtype)
    adapter = lora.init_adapter(jax.random.key(0), shapes_of(config, targets, rank), rank)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), adapter)
    return Adapted(config, model, params, random_like(like, seed=1))
