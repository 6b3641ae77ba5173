"""One optimizer step as a pure function: (state, batch) -> (state, metrics); and one step of evaluation."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxllm.config import GPTConfig
from jaxllm.fast import on_mesh
from jaxllm.fast.platform import platform
from jaxllm.fast.products import XLA, using
from jaxllm.gpt import GPT, block_class, summed_loss, traced_once
from jaxllm.parallel import TOKENS
from jaxllm.utils.errors import InputError

from .config import TrainConfig
from .nonfinite import apply_if, first_not_finite
from .objective import Objective, Sums, next_token
from .parallel.placing import kept_in_place
from .state import TrainState
from .tune.partition import Partition

Metrics = dict[str, Array]
Step = Callable[[TrainState, ArrayLike, ArrayLike], tuple[TrainState, Metrics]]
EvalStep = Callable[[Any, ArrayLike, ArrayLike, ArrayLike], Array]


def make_model(config: GPTConfig, train: TrainConfig, mesh: Mesh | None = None) -> GPT:
    """The model as it is trained: in the dtype of `train`, and with rematerialised blocks if `train.remat`.

    On a mesh its blocks gather their parameters.
    """
    model = GPT(config, train.dtype)
    model = model if mesh is None else model.clone(block=on_mesh.gathered(block_class(model)))
    return model.clone(block=nn.remat(block_class(model))) if train.remat else model


def make_train_step(
    model: GPT, optimizer: optax.GradientTransformation, config: TrainConfig, schedule: optax.Schedule,
    mesh: Mesh | None = None, objective: Objective | None = None, parts: Partition | None = None,
) -> Step:  # fmt: skip
    """The jitted step, which donates its state's buffers and takes inputs and targets [B, T].

    The gradient is that of the mean loss over all tokens of the batch, by `config.loss` where it is given, or of
    another `objective`, whose further figures are metrics too. It is taken of the parameters that change (`parts`). The
    loss of each microbatch is divided by the number of all tokens, because dividing the summed gradients would be one
    more pass over the parameters. Metrics: train_loss, grad_norm (before clipping), learning_rate, and not_finite: -1,
    or the index in `parts_backward` of the first part with a non-finite gradient; and what `config.metrics` returns. A
    step whose loss or gradient is not finite changes only the step count.

    On a `mesh` the state lies as `train.parallel.placing.state_shardings` says, and the batch as `put_batch` puts it.

    Matrix products are computed as `config.products` says; "auto" is XLA here (`train.products.choose` resolves it).

    A `nn.intercept_methods` that is active when the step is traced, at its first call, takes effect. Raises InputError
    for a subclass with a `__call__` of its own.
    """
    step = on_mesh.traced_on(mesh, step_function(model, optimizer, config, schedule, objective, parts))
    return jax.jit(step, donate_argnums=0, compiler_options=compiler_options(model.dtype))


def step_function(
    model: GPT, optimizer: optax.GradientTransformation, config: TrainConfig, schedule: optax.Schedule,
    objective: Objective | None = None, parts: Partition | None = None,
) -> Callable[[TrainState, Array, Any], tuple[TrainState, Metrics]]:  # fmt: skip
    """The step of `make_train_step` before it is jitted; numbers of the config may be tracers here."""
    drops = model.config.dropout or (parts is not None and parts.lora.dropout)
    dropout_keys = dropout_key(config.seed) if drops else None
    objective = objective or next_token(config)
    products = XLA if config.products == "auto" else config.products
    _check_call(model)

    def train_step(state: TrainState, inputs: Array, targets: Any) -> tuple[TrainState, Metrics]:
        n_losses, n, once = objective.n_losses(targets), config.grad_accumulation, traced_once(model)

        def loss_fn(
            params: Any, frozen: Any, inputs: Array, targets: Any, key: Array | None
        ) -> tuple[Array, Sums]:  # fmt: skip
            rngs = {} if key is None else {"dropout": key}
            params = on_mesh.gathered_ends(params if parts is None else parts.join(params, frozen, key))
            loss, sums = objective.loss(once, params, inputs, targets, rngs)
            return loss / n_losses, {name: one / n_losses for name, one in sums.items()}

        def accumulate(total: Any, microbatch: Any) -> tuple[Any, None]:
            (params, frozen), total = on_mesh.read_in_loop((state.params, state.frozen), total)
            (loss, means), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, frozen, *microbatch)
            return jax.tree.map(jnp.add, total, (loss, on_mesh.stored(grads), means)), None

        keys = None if dropout_keys is None else jax.random.split(jax.random.fold_in(dropout_keys, state.step), n)
        microbatches = (*jax.tree.map(partial(_microbatches, n), (inputs, targets)), keys)
        zeros = (jnp.zeros(()), on_mesh.stored(jax.tree.map(jnp.zeros_like, state.params)), objective.zeros())
        with using(products):
            (loss, grads, means), _ = jax.lax.scan(accumulate, zeros, microbatches)

        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        params, opt_state, updates = apply_gradients(optimizer, grads, state, finite)
        metrics = {
            "train_loss": loss,
            "learning_rate": schedule(state.step),
            "grad_norm": grad_norm,
            "not_finite": jnp.where(finite, -1, jnp.maximum(first_not_finite(grads), 0)),
            **means,
        }
        if config.metrics is not None:
            metrics |= config.metrics(state.params, grads, updates)
        return kept_in_place(TrainState(state.step + 1, params, opt_state, state.frozen)), jax.tree.map(
            lambda x: on_mesh.cut(jnp.asarray(x)), metrics
        )

    return train_step


def _microbatches(n: int, x: Array) -> Array:
    """[B, ...] -> [n, B / n, ...]; the positions of rows [B, T] are cut along the mesh too."""
    return on_mesh.cut(x.reshape(n, -1, *x.shape[1:]), None, *(TOKENS if x.ndim == 2 else TOKENS[:1]))


def apply_gradients(
    optimizer: optax.GradientTransformation, grads: Any, state: TrainState, finite: Array
) -> tuple[Any, Any, Any]:  # fmt: skip
    """The new parameters and the optimizer's new state, the old ones if not `finite`; and the updates.

    On a CPU the state is computed after the parameters, from the same old state. Without this order XLA copies the old
    moments, which both read, before it overwrites them. Only what the state depends on is computed twice: XLA leaves
    out the directions of the second update, such as Muon's matrix products.
    """
    old = state.opt_state
    updates, opt_state = optimizer.update(grads, old, state.params)
    params = apply_if(finite, optax.apply_updates(state.params, updates), state.params)
    if platform() == "cpu":
        old, params = jax.lax.optimization_barrier((old, params))
        _, opt_state = optimizer.update(grads, old, state.params)
    return params, apply_if(finite, opt_state, old), updates


def make_eval_step(model: GPT, mesh: Mesh | None = None) -> EvalStep:
    """The jitted function params, inputs, targets, weights [B, T] -> sum of weighted token losses, without dropout.

    On a `mesh` its arguments lie as in `make_train_step`.

    Interceptors and subclasses as in `make_train_step`.
    """
    _check_call(model)

    def eval_step(params: Any, inputs: Array, targets: Array, weights: Array) -> Array:
        return summed_loss(traced_once(model), on_mesh.gathered_ends(params), inputs, targets, weights)

    return jax.jit(on_mesh.traced_on(mesh, eval_step))


def compiler_options(dtype: str | None) -> dict[str, Any]:
    """XLA's options for a training step; none but on a CPU."""
    return _cpu_options(dtype) if platform() == "cpu" else {}


@cache
def _cpu_options(dtype: str | None) -> dict[str, Any]:
    """Vectors of 512 bits where the processor has them.

    In float32 also matrix products by Eigen, and YNNPACK for sums only. oneDNN as part of XLA is not used, because
    JAX 0.12 computes wrong float32 gradients with it. The tests compare a step compiled with these options with the
    reference.
    """
    options: dict[str, Any] = {"xla_cpu_prefer_vector_width": 512}
    if dtype != "bfloat16":
        options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_REDUCE"
    return options if _are_known(options) else {k: v for k, v in options.items() if _are_known({k: v})}


def _are_known(options: dict[str, Any]) -> bool:
    """Whether this version of JAX has these options; some are experimental."""
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def dropout_key(seed: ArrayLike) -> Array:
    """A key of philox4x32, which draws dropout masks faster than the default generator; JAX 0.10 does not have it."""
    try:
        return jax.random.key(seed, impl="philox4x32")
    except ValueError:
        return jax.random.key(seed)


def _check_call(model: GPT) -> None:
    """Raises InputError for a subclass that may change the logits, which the loss by `head_loss` does not compute."""
    if type(model).__call__ is not GPT.__call__:
        raise InputError(
            f"{type(model).__name__} has a __call__ of its own, but the loss of a training step is computed without "
            "the logits that it may change; change them by flax's nn.intercept_methods, or take the gradient of "
            "jaxllm.loss.cross_entropy of the model's logits in a step of your own."
        )
