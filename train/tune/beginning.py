"""The state that a run on a base begins with, and the parameters that it leaves frozen."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict

from jaxllm.config import GPTConfig
from jaxllm.lora import grown
from jaxllm.pretrained.peft import read_adapter
from jaxllm.utils.errors import InputError

from ..config import RunConfig
from ..state import TrainState, state_of
from .base import Base, first_parameters, once, open_base
from .config import LoraConfig
from .partition import ALWAYS, Partition


def begun(config: RunConfig, base: Base) -> tuple[RunConfig, Base]:
    """The config of a run that begins, with the base's fingerprint and what `init.adapter` decides; the base, read.

    Raises InputError if the base is not the one that the config or the adapter was made for.
    """
    params, found = base.parameters(config.init.sha256)
    config = replace(config, init=replace(config.init, sha256=found))
    if config.init.adapter:
        config = replace(config, lora=lora_of(config, base))
    return config, replace(base, read=once(params, base.read))


def lora_of(config: RunConfig, base: Base) -> LoraConfig:
    """The [lora] of an adapter in PEFT's layout. Raises InputError where the config, or its base, is another."""
    if (Path(str(config.init.adapter)) / "config.toml").exists():
        raise InputError(
            f"init.adapter is {config.init.adapter}, a run of jaxllm, but it takes a folder of PEFT; name the run in "
            "init.from, or write its adapter with `jaxllm export RUN --out FOLDER --adapter`."
        )
    there, sha256 = read_adapter(str(config.init.adapter), base.config), str(config.init.sha256)
    if there.base_sha256 is not None and there.base_sha256 != sha256:
        raise InputError(
            f"{config.init.adapter} is an adapter of weights with the fingerprint {there.base_sha256[:12]}, but "
            f"{base.name} has {sha256[:12]}; name its own base in init.from."
        )
    maps = sorted({path.partition("/")[2].removesuffix("/kernel/a") for path in _leaves(there.adapter, "a")})
    lora = replace(config.lora, rank=there.rank, alpha=float(there.alpha), targets="|".join(map(re.escape, maps)))
    train = config.tune.train
    for path in sorted(_paths(there.full)):
        if not path.startswith(ALWAYS) and not (train and re.search(train, path)):
            raise InputError(
                f"{config.init.adapter} holds {path}, which does not change in this run; name it in tune.train."
            )
        if path.startswith("token_embedding/") and config.init.add_tokens:
            raise InputError(
                f"{config.init.adapter} holds {path} without the tokens of init.add_tokens; leave them out, or merge "
                "the adapter into its base."
            )
    for name in ("rank", "alpha", "targets"):
        given, default = getattr(config.lora, name), getattr(LoraConfig(), name)
        if given not in (default, getattr(lora, name)):
            raise InputError(
                f"lora.{name} is {given!r}, but in {config.init.adapter} it is {getattr(lora, name)!r}; leave it out."
            )
    return lora


def _leaves(adapter: Any, name: str) -> list[str]:
    return [path for path in _paths(adapter) if path.endswith(f"/kernel/{name}")]


def _paths(tree: Any) -> list[str]:
    return [*flatten_dict(tree, sep="/")]


def parameters_on(base: Base, config: RunConfig, model: GPTConfig) -> dict[str, Any]:
    """The parameters of the model before anything is trained, without adapters. Raises InputError for another base."""
    params, _ = base.parameters(config.init.sha256)
    table = len(params["token_embedding"]["table"])
    known = base.tokenizer.vocab_size - len(config.init.add_tokens) if config.init.add_tokens else table
    return first_parameters(params, model, known, config.train.seed)


def first_state_on(
    base: Base, config: RunConfig, model: GPTConfig, optimizer: optax.GradientTransformation, parts: Partition | None
) -> TrainState:
    """The state before the first step, with the values of `init.adapter` where that is given."""
    params, key = parameters_on(base, config, model), jax.random.key(config.train.seed)
    state = state_of(params, optimizer, key, parts)  # not jitted: one program of all adapters takes minutes to compile
    if not config.init.adapter:
        return state
    there = read_adapter(config.init.adapter, base.config)
    new = flatten_dict(state.params, sep="/")
    whole = unflatten_dict(new | flatten_dict(there.full, sep="/"), sep="/")
    params = grown(there.adapter, whole)
    # The optimizer begins with these values too: schedule-free ones keep a copy of the parameters.
    return state._replace(params=params, opt_state=optimizer.init(params))


def frozen_on(base: Base, config: RunConfig, model: GPTConfig, parts: Partition | None) -> Any:
    """The parameters of the base that do not change; None where all do. Raises InputError for another base."""
    return None if parts is None else parts.split(parameters_on(base, config, model), jax.random.key(0))[1]


def frozen_of(config: RunConfig, model: GPTConfig, parts: Partition | None, load_run: Callable[[str], Any]) -> Any:
    """As `frozen_on` of the base that the config names, as arrays of JAX."""
    if parts is None:
        return None
    frozen = frozen_on(open_base(config.init, load_run), config, model, parts)
    return jax.tree.map(jnp.asarray, frozen)
