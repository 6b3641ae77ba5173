"""One optimizer step as a pure function: (state, batch) -> (state, metrics).

The state is nanodo's and big_vision's in a tuple: no generator is in it, because each step's dropout key is
derived from (seed, step). flax's TrainState would carry functions as static fields; this carries arrays only.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.stages import Compiled
from jax.typing import ArrayLike

from jaxllm.config import GPTConfig
from jaxllm.fast.init import init_params
from jaxllm.gpt import GPT, Block, interceptors, summed_loss
from jaxllm.utils.errors import InputError

from .config import OptimizerConfig, TrainConfig
from .nonfinite import apply_if, first_not_finite

Metrics = dict[str, Array]
Step = Callable[["TrainState", ArrayLike, ArrayLike], tuple["TrainState", Metrics]]
EvalStep = Callable[[Any, ArrayLike, ArrayLike, ArrayLike], Array]


class TrainState(NamedTuple):
    """All that changes during training."""

    step: Array  # number of steps taken, int32
    params: Any
    opt_state: Any


def learning_rate_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Linear warm-up that begins at lr / (warmup + 1), not at 0, then a cosine, as in nanoGPT's train.py.

    Written out, because `optax.warmup_cosine_decay_schedule` subtracts the peak from the warm-up: in float32 its
    first rates of 2,000 were off by 3.5e-5 of themselves (these: 1e-7).
    """
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps

    def schedule(step: ArrayLike) -> Array:
        now = jnp.asarray(step, float)
        rising = highest * (now + 1) / (warmup + 1)
        done = jnp.clip((now - warmup) / (steps - warmup), 0, 1)
        falling = lowest + (highest - lowest) * (1 + jnp.cos(jnp.pi * done)) / 2
        return jnp.where(now < warmup, rising, falling)

    return schedule


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW (Loshchilov and Hutter 2019) with decay on matrices only."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate_schedule(config, steps),
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim >= 2, params),
        ),
    )


def make_model(config: GPTConfig, train: TrainConfig) -> GPT:
    """The model as it is trained: in the dtype of `train`, and with rematerialised blocks if `train.remat`."""
    return GPT(config, train.dtype, nn.remat(Block) if train.remat else Block)


def first_state(model: GPT, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """The state before the first step, as a function to be traced or compiled."""
    model = model.clone(block=Block)  # a matter of the backward only, and `init_params` cannot look into it
    params = init_params(model, key, jnp.zeros((1, 1), jnp.int32))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def init_state(model: GPT, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step; one compiled program, not one for each parameter."""
    key = jax.random.key(seed)
    return cast(TrainState, _initializer(model, optimizer).lower(key).compile()(key))


def _initializer(model: GPT, optimizer: optax.GradientTransformation) -> Any:
    # It runs once, and code that was optimised less draws the same bits: 3.7 s to compile for GPT-2 124M, not 4.7.
    options = {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}
    return jax.jit(partial(first_state, model, optimizer), compiler_options=options)


def begin(
    model: GPT, optimizer: optax.GradientTransformation, config: TrainConfig, schedule: optax.Schedule,
    restore: Callable[[TrainState], TrainState] | None = None,
) -> tuple[TrainState, Compiled]:  # fmt: skip
    """What `init_state` and `make_train_step` give, the step compiled. XLA does both at once, while Python traces on.

    With `restore` it is what that makes of the state's shapes, while XLA compiles, and no first state is made.

    On 2 cores the first step of GPT-2 124M was done after 23 to 28 s in place of 29 to 32, of a small GPT after 5.8 s
    in place of 6.6.
    """
    key = jax.random.key(config.seed)
    tokens = jax.ShapeDtypeStruct((config.batch_size, model.config.context_length), jnp.int32)
    with ThreadPoolExecutor() as pool:
        create = _initializer(model, optimizer).trace(key)
        creating = pool.submit(create.lower().compile) if restore is None else None
        step = cast(Any, make_train_step(model, optimizer, config, schedule))
        compiling = pool.submit(step.lower(create.out_info, tokens, tokens).compile)
        state = restore(create.out_info) if restore else cast(Any, creating).result()(key)
        return state, compiling.result()


def make_train_step(
    model: GPT, optimizer: optax.GradientTransformation, config: TrainConfig, schedule: optax.Schedule
) -> Step:
    """The jitted step, which consumes its state (the buffers are donated) and takes inputs and targets [B, T].

    The gradient is that of the mean loss over all tokens of the batch. The loss of each micro-batch is divided by the
    number of all, and not the sum of gradients: that would be one more pass over the parameters. Metrics: train_loss,
    grad_norm (before clipping), learning_rate, not_finite: where the loss or the gradient is not finite, the place of
    the first such part in `parts_backward`, else -1. Such a step is counted and changes nothing else.

    `nn.intercept_methods` that is active when the step is traced, at its first call, is honoured. Raises InputError for
    a subclass with a `__call__` of its own.
    """
    dropout_keys = dropout_key(config.seed)
    _check_call(model)

    def train_step(state: TrainState, inputs: Array, targets: Array) -> tuple[TrainState, Metrics]:
        once = _traced_once(model)

        def share(params: Any, inputs: Array, wanted: Array, key: Array) -> Array:
            rngs = {"dropout": key} if model.config.dropout else {}
            return summed_loss(once, params, inputs, wanted, rngs=rngs) / targets.size

        def add(total: tuple[Array, Any], micro: Any) -> tuple[tuple[Array, Any], None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(share)(state.params, *micro)), None

        n = config.grad_accumulation
        keys = jax.random.split(jax.random.fold_in(dropout_keys, state.step), n)
        micros = (*(x.reshape(n, -1, x.shape[-1]) for x in (inputs, targets)), keys)
        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        (loss, grads), _ = jax.lax.scan(add, zero, micros)

        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        params, opt_state = apply_if(finite, (params, opt_state), (state.params, state.opt_state))
        metrics = {
            "train_loss": loss,
            "learning_rate": schedule(state.step),
            "grad_norm": norm,
            "not_finite": jnp.where(finite, -1, jnp.maximum(first_not_finite(grads), 0)),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return jax.jit(train_step, donate_argnums=0, compiler_options=compiler_options(model.dtype))


@cache
def compiler_options(dtype: str | None) -> dict[str, str]:
    """On a CPU in float32, matrix products by Eigen and not by YNNPACK, which stays for sums: 5 to 10 % of a step.

    oneDNN's custom calls were as fast, but with them JAX 0.12 computes wrong gradients in float32. What is chosen here
    holds for the training step, and its comparison with the reference in the tests is compiled with it.
    """
    options = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}
    if jax.default_backend() != "cpu" or dtype == "bfloat16":
        return {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # an experimental option, which another version of JAX may not know
        return {}
    return options


def dropout_key(seed: int) -> Array:
    """A key of the cheapest counter-based generator there is: philox4x32 draws a mask about eight times as fast
    as the default on a CPU, but JAX 0.10 does not have it."""
    try:
        return jax.random.key(seed, impl="philox4x32")
    except ValueError:
        return jax.random.key(seed)


def make_eval_step(model: GPT) -> EvalStep:
    """Jitted: params, inputs, targets, weights [B, T] -> the sum of weighted token losses, without dropout.

    Interceptors and subclasses as in `make_train_step`.
    """
    _check_call(model)

    @jax.jit
    def eval_step(params: Any, inputs: Array, targets: Array, weights: Array) -> Array:
        return summed_loss(_traced_once(model), params, inputs, targets, weights)

    return eval_step


def _traced_once(model: GPT) -> GPT:
    """The model with all blocks from one trace, which compiles sooner; as it is where interceptors are active, which
    could not tell such blocks apart."""
    return model if interceptors() else model.clone(block=nn.jit(model.block))


def _check_call(model: GPT) -> None:
    """Raises InputError for a subclass that may change the logits, of which the loss by `head_loss` knows nothing."""
    if type(model).__call__ is not GPT.__call__:
        raise InputError(
            f"{type(model).__name__} has a __call__ of its own, but the loss of a training step is computed without "
            "the logits that it may change; change them by flax's nn.intercept_methods, or take the gradient of "
            "jaxllm.loss.cross_entropy of the model's logits in a step of your own."
        )
