"""The training state, how it begins, and the compilation that a run waits for."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jax.stages import Compiled
from jax.typing import ArrayLike

from jaxllm.fast import on_mesh
from jaxllm.fast.init import init_params
from jaxllm.fast.platform import platform
from jaxllm.gpt import GPT

from .config import RunConfig, TrainConfig, row_length
from .optimizer import make_optimizer
from .parallel.placing import kept_in_place, placed, row_sharding
from .tune.partition import Partition, partition_of


class TrainState(NamedTuple):
    """Everything that changes during training. Dropout keys are derived from (seed, step), so no key is part of it."""

    step: Array  # number of steps taken, int32
    params: Any
    opt_state: Any
    frozen: Any = None  # parameters that do not change (`train.tune.partition`); no part of a checkpoint


def first_state(
    model: GPT, optimizer: optax.GradientTransformation, key: Array, parts: Partition | None = None
) -> TrainState:
    """The state before the first step, as a function to be traced or compiled."""
    model = model.clone(block=None)  # rematerialisation changes only the backward pass; `init_params` cannot trace it
    return state_of(init_params(model, key, jnp.zeros((1, 1), jnp.int32)), optimizer, key, parts)


def state_of(
    params: Any, optimizer: optax.GradientTransformation, key: Array, parts: Partition | None = None
) -> TrainState:
    """The state before the first step with these parameters. New adapters are drawn with the key."""
    params, frozen = (params, None) if parts is None else parts.split(params, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), frozen)


def abstract_state(model: GPT, config: RunConfig) -> TrainState:
    """Shapes and dtypes of the state of a run; nothing is computed."""
    optimizer = make_optimizer(config.optimizer, config.train.steps, model.config.width_ratio)
    return cast(TrainState, jax.eval_shape(partial(_seeded_state, model, optimizer, partition_of(config)), 0))


def init_state(model: GPT, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step, from one compiled program rather than one for each parameter."""
    return cast(TrainState, _initializer(model, optimizer).lower(seed).compile()(seed))


def init_and_compile(
    model: GPT, optimizer: optax.GradientTransformation, train_step: Any, config: TrainConfig,
    restore: Callable[[TrainState], TrainState] | None = None, mesh: Mesh | None = None,
    parts: Partition | None = None, batch: Any = None,
) -> tuple[TrainState, Compiled]:  # fmt: skip
    """Returns the state of `init_state` and the jitted `train_step`, compiled.

    XLA compiles both programs in threads while Python traces the second. With `restore`, the state is
    `restore(shapes)`, read while XLA compiles the step, and no first state is computed. `batch` holds the shapes of
    inputs and targets, by default [B, T] each. With `config.seconds` the step
    takes an int32 scalar more (`train.budget.make_budgeted_step`). On a `mesh` the state lies as
    `train.parallel.placing.state_shardings` says.
    """
    ahead = () if config.seconds is None else (jax.ShapeDtypeStruct((), jnp.int32),)
    rows = None if mesh is None else row_sharding(mesh)
    row = jax.ShapeDtypeStruct((config.batch_size, row_length(model.config, config)), jnp.int32, sharding=rows)
    inputs, targets = batch or (row, row)
    with ThreadPoolExecutor() as pool:
        init = _initializer(model, optimizer, mesh, parts).trace(config.seed)
        initializing, like = pool.submit(init.lower().compile) if restore is None else None, placed(mesh, init.out_info)
        compiling = pool.submit(train_step.lower(like, inputs, targets, *ahead).compile)
        state = restore(like) if restore else cast(Any, initializing).result()(config.seed)
        return state, compiling.result()


def _seeded_state(
    model: GPT, optimizer: optax.GradientTransformation, parts: Partition | None, seed: ArrayLike
) -> TrainState:
    return kept_in_place(
        first_state(model, optimizer, jax.random.key(seed), parts)
    )  # in the same program, for fewer to compile


def _initializer(
    model: GPT, optimizer: optax.GradientTransformation, mesh: Mesh | None = None, parts: Partition | None = None
) -> Any:
    # It runs once, so on a CPU XLA optimises it less and compiles it sooner. The random bits are the same.
    options = {"xla_backend_optimization_level": 1} if platform() == "cpu" else {}
    return jax.jit(on_mesh.traced_on(mesh, partial(_seeded_state, model, optimizer, parts)), compiler_options=options)
