"""What each `tune.kind` minimises, and the shapes of its batches."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxllm.utils.errors import InputError

from ..config import RunConfig
from ..objective import Objective, next_token
from .batches import Answers, Preferences
from .objectives import objective


def objective_of(config: RunConfig) -> Objective:
    """The objective of a run's step."""
    if config.tune.kind == "pretrain":
        return next_token(config.train)
    return objective(config.tune.kind, config.tune.beta)


def shapes_of_kind(config: RunConfig, row: int) -> tuple[jax.ShapeDtypeStruct, Any]:
    """The shapes of a step's inputs and targets, for rows of so many tokens."""
    batch = config.train.batch_size
    tokens = jax.ShapeDtypeStruct((batch, row), jnp.int32)
    if config.tune.kind == "pretrain":
        return tokens, tokens
    if config.tune.kind == "prefer":
        pairs = jax.ShapeDtypeStruct((batch, 2, row), jnp.int32)
        return pairs, Preferences(pairs, jax.ShapeDtypeStruct((batch, 2), jnp.float32))
    return tokens, Answers(tokens, *(tokens, tokens) if config.tune.packing else (None, None))


def check_plain(config: RunConfig, why: str) -> None:
    """Raises InputError, with the reason why, for a config that begins from weights or learns from examples."""
    given = {"init.from": config.init.from_, "lora.rank": config.lora.rank, "tune.train": config.tune.train}
    if config.tune.kind != "pretrain":
        given["tune.kind"] = config.tune.kind
    for name, value in given.items():
        if value:
            raise InputError(f"{name} is {value!r}, but {why}; leave [init], [tune] and [lora] out.")
