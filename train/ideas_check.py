"""A user's functions tried on small arrays before a model is compiled: results of the right shape, finite, and pure."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT
from jaxllm.loss import takes_hidden
from jaxllm.utils.errors import InputError
from jaxllm.utils.ideas import Idea

from .config import RunConfig
from .ideas import references
from .state import abstract_state

N_ROWS, N_POSITIONS = 3, 4
RECORDED = (
    "step", "tokens", "elapsed_s", "train_loss", "learning_rate", "grad_norm", "not_finite", "tokens_per_s",
    "data_wait_s", "val_loss", "averaged_val_loss", "train_accuracy", "train_margin",
    "val_accuracy", "val_margin", "skipped", "train_s", "schedule_step",
)  # fmt: skip
CHOICES = "where it chooses between two formulas by jnp.where, both must have a finite derivative"
MASKED = f"what is not visible is masked by a function of model.visible, not by -inf in a score, and {CHOICES}"


def check_ideas(config: RunConfig, model: GPTConfig) -> None:
    """Try every function of a resolved config, and the model with its block.

    Raises InputError that names the function for a result of a wrong shape or type, a non-finite value or gradient at
    ordinary numbers, and a function that is not pure: one that computes something else when it is traced again.
    """
    for section, field, idea in references(config):
        if trial := _TRIALS.get(f"{section}.{field}"):
            trial(idea, model)
        if trial_of_training := _TRIALS_OF_TRAINING.get(f"{section}.{field}"):
            trial_of_training(idea, config, model)


def _check_arrays(idea: Idea, arguments: list[Any], shape: tuple[int, ...], gives: str, finite: str = CHOICES) -> None:
    """Check a function of arrays: its value and gradient at `arguments`; the result must have this shape."""
    out = _called(idea, arguments)
    if not hasattr(out, "shape") or tuple(out.shape) != shape:
        raise InputError(
            f"{idea.name} returns {_described(out)} for arguments of shapes {', '.join(map(_described, arguments))}, "
            f"but it must return {gives} of shape {_text(shape)}."
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise InputError(f"{idea.name} returns {out.dtype}, but it must return {gives} as floating-point numbers.")
    _check_pure(idea, arguments)
    function, floats = _of_arrays(idea, arguments, np.floating)
    value, pullback = jax.vjp(function, *floats)
    for what, array in [("value", value)] + [("gradient", g) for g in pullback(jnp.ones_like(value))]:
        if not bool(jnp.isfinite(array).all()):
            raise InputError(f"the {what} of {idea.name} is not finite at ordinary numbers (0 among them); {finite}.")


def _check_elementwise(idea: Idea, arguments: list[Any]) -> None:
    """Raises InputError where a number of the result depends on others than the number in its place."""
    whole = np.asarray(idea(*arguments))
    for axis in range(-whole.ndim, 0):
        alone = idea(*(_second(x, axis) for x in arguments))
        if alone.shape != _second(whole, axis).shape or not np.allclose(alone, _second(whole, axis), 1e-4, 1e-5):
            raise InputError(
                f"{idea.name} is not elementwise: a number of its result depends on another along axis "
                f"{whole.ndim + axis} of its argument {_text(whole.shape)}, and would differ where a model computes "
                "a part at a time."
            )


def _second(x: Any, axis: int) -> Any:
    """The second place along an axis, counted from the last; x itself where it is the same all along."""
    varies = getattr(x, "ndim", 0) >= -axis and x.shape[axis] > 1
    return x.take(np.array([1]), axis) if varies else x


def _called(idea: Idea, arguments: list[Any]) -> Any:
    """The shape of what a function returns."""
    function, arrays = _of_arrays(idea, arguments)
    return jax.eval_shape(function, *arrays)


def _call(idea: Idea, *arguments: Any) -> Any:
    """What a function returns. Raises InputError where it does not take so many arguments."""
    try:
        signature(idea).bind(*arguments)
    except TypeError as error:
        raise InputError(f"{idea.name} cannot be called with {len(arguments)} arguments: {error}.") from None
    return idea(*arguments)


def _of_arrays(
    idea: Idea, arguments: list[Any], kind: type[np.generic] = np.generic
) -> tuple[Callable[..., Any], list[Array]]:
    """The function of those of its arguments alone that are arrays of a kind, and these: a new one, traced anew."""
    places = [i for i, x in enumerate(arguments) if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, kind)]

    def function(*arrays: Array) -> Any:
        given = dict(zip(places, arrays, strict=True))
        return _call(idea, *(given.get(i, x) for i, x in enumerate(arguments)))

    return function, [arguments[i] for i in places]


def _check_pure(idea: Idea, arguments: list[Any]) -> None:
    """Raises InputError where the function becomes another program when it is traced again."""

    def traced() -> tuple[str, list[Any]]:
        function, arrays = _of_arrays(idea, arguments)
        program = jax.make_jaxpr(function)(*arrays)
        return str(program.jaxpr), program.consts

    (one, consts), (again, others) = traced(), traced()
    if one != again or not all(np.array_equal(a, b) for a, b in zip(consts, others, strict=True)):
        raise InputError(
            f"{idea.name} is not pure: traced twice, it computes two different things; it may depend on its arguments "
            "only, not on random numbers, the time or a variable that it changes."
        )


def _described(x: Any) -> str:
    return _text(x.shape) if hasattr(x, "shape") else repr(x) if isinstance(x, int | float) else type(x).__name__


def _text(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _numbers(*shape: int) -> Array:
    """Ordinary numbers of both signs, with zeros among them."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x.flat[::5] = 0
    return jnp.asarray(x)


def _places() -> tuple[Array, Array]:
    t = jnp.arange(N_POSITIONS)
    return t[:, None], t[None, :]


def _activation(idea: Idea, model: GPTConfig) -> None:
    shape = (N_ROWS, model.hidden_dim)
    _check_arrays(idea, [_numbers(*shape) for _ in range(2 if model.gated else 1)], shape, "an array")


def _norm(idea: Idea, model: GPTConfig) -> None:
    d = model.d_model
    bias = _numbers(d) if model.use_bias else None
    _check_arrays(idea, [_numbers(N_ROWS, d), _numbers(d), bias, model.norm_epsilon], (N_ROWS, d), "an array")


def _position(idea: Idea, model: GPTConfig) -> None:
    row = jnp.arange(N_POSITIONS)
    rows = jnp.stack([row[::-1], jnp.maximum(row, 1)])
    for positions in (row, rows):  # of training, and of rows of different lengths when they generate
        _check_arrays(idea, [positions, model.d_model], (*positions.shape, model.d_model), "vectors")
    each = [idea(row, model.d_model) for row in rows]
    if not np.allclose(idea(rows, model.d_model), each, 1e-4, 1e-5):
        raise InputError(f"{idea.name} gives other vectors for positions {_text(rows.shape)} than for each row of it.")


def _score(idea: Idea, model: GPTConfig) -> None:
    shape = (2, model.n_heads, N_POSITIONS, N_POSITIONS)
    heads = jnp.arange(model.n_heads)[:, None, None]
    arguments = [_numbers(*shape), heads, *_places()]
    _check_arrays(idea, arguments, shape, "scores", MASKED)
    _check_elementwise(idea, arguments)


def _visible(idea: Idea, model: GPTConfig) -> None:
    t, s = _places()
    arguments = [t, s, *((None, None) if model.separator is None else (t // 2, s // 2))]
    out = _called(idea, arguments)
    shape = getattr(out, "shape", None)
    fits = shape is not None and len(shape) <= 2 and all(n in (1, N_POSITIONS) for n in shape)
    if not fits or out.dtype != bool:
        raise InputError(
            f"{idea.name} returns {getattr(out, 'dtype', '')} {_described(out)}, but it must return bool [4, 4] for "
            "t [4, 1] and s [1, 4]."
        )
    _check_pure(idea, arguments)


def _logits(idea: Idea, model: GPTConfig) -> None:
    shape = (N_ROWS, model.vocab_size)
    _check_arrays(idea, [_numbers(*shape)], shape, "logits")
    _check_elementwise(idea, [_numbers(*shape)])


def _loss(idea: Idea, model: GPTConfig) -> None:
    targets = jnp.arange(2 * N_POSITIONS).reshape(2, N_POSITIONS) % model.vocab_size
    if takes_hidden(idea):
        read = [_numbers(2, N_POSITIONS, model.d_model), _numbers(model.vocab_size, model.d_model)]
    else:
        read = [_numbers(2, N_POSITIONS, model.vocab_size)]
    _check_arrays(idea, [*read, targets], (2, N_POSITIONS), "the loss of each token")


def _block(idea: Idea, model: GPTConfig) -> None:
    if not (isinstance(idea.function, type) and issubclass(idea.function, nn.Module)):
        raise InputError(f"{idea.name} is no class of flax.linen.nn.Module; model.block takes the class of a block.")
    x = jax.ShapeDtypeStruct((1, min(N_POSITIONS, model.context_length), model.d_model), jnp.float32)

    def both(key: Array, x: Array) -> Any:
        block = idea.function(model)
        first, _ = block.init_with_output(key, x, documents=None)
        carry = first if isinstance(first, tuple) else (first,)
        return first, block.init_with_output(key, *carry, documents=None)[0]

    for out in jax.eval_shape(both, jax.random.key(0), x):
        y = out[0] if isinstance(out, tuple) else out
        if getattr(y, "shape", None) != x.shape:
            raise InputError(
                f"{idea.name} returns {_described(y)} for x of shape {_text(x.shape)}, but a block must return x's "
                "shape, alone or first in a tuple."
            )


def _metrics(idea: Idea, model: GPTConfig) -> None:
    params = jax.eval_shape(GPT(model).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
    out = _called_on_trees(idea, params, params, params)
    if not isinstance(out, dict) or any(getattr(x, "shape", None) != () for x in out.values()):
        raise InputError(f"{idea.name} must return a dict of single numbers; it returns {_described(out)}.")
    for name in out:
        if name in RECORDED or not isinstance(name, str):
            raise InputError(f"{idea.name} returns {name!r}, which metrics.jsonl holds already; choose another name.")


def _called_on_trees(idea: Idea, *trees: Any) -> Any:
    return jax.eval_shape(lambda *given: _call(idea, *given), *trees)


def _optimizer(idea: Idea, config: RunConfig, model: GPTConfig) -> None:
    made = _call(idea, config.optimizer, lambda step: 1e-3)
    if not (callable(getattr(made, "init", None)) and callable(getattr(made, "update", None))):
        raise InputError(f"{idea.name} returns {type(made).__name__}, but it must return an Optax transformation.")


def _schedule(idea: Idea, config: RunConfig, model: GPTConfig) -> None:
    made = _call(idea, config.optimizer, config.train.steps)
    rate = jax.eval_shape(made, jnp.zeros((), jnp.int32)) if callable(made) else made
    if getattr(rate, "shape", None) != ():
        raise InputError(
            f"{idea.name} returns {type(made).__name__}, but it must return a function of the step, whose result is "
            "one learning rate."
        )


def _weights(idea: Idea, config: RunConfig, model: GPTConfig) -> None:
    state = abstract_state(GPT(model), config)
    out = _called_on_trees(idea, state)
    shapes = [jax.tree.map(lambda x: x.shape, tree) for tree in (out, state.params)]
    if shapes[0] != shapes[1]:
        raise InputError(f"{idea.name} must return a tree like state.params, of the same names and shapes.")


_TRIALS: dict[str, Callable[[Idea, GPTConfig], None]] = {
    "model.activation": _activation, "model.norm": _norm, "model.position": _position, "model.score": _score,
    "model.visible": _visible, "model.logits": _logits, "model.block": _block, "train.loss": _loss,
    "train.metrics": _metrics,
}  # fmt: skip
_TRIALS_OF_TRAINING: dict[str, Callable[[Idea, RunConfig, GPTConfig], None]] = {
    "optimizer.name": _optimizer, "optimizer.schedule": _schedule, "eval.weights": _weights,
}  # fmt: skip
