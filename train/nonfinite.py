"""Steps whose loss or gradient is not a finite number: left out, and where it began.

nanoGPT goes on with NaN in every parameter; optax.apply_if_finite leaves a step out, but its schedule then falls behind
the data, and it does not say where. Here the parameters and moments stay as they were, the step is counted, and a
number tells the first part of the model, as the gradient comes by, in which it is not finite. What a trained model
computes is checked as well, by its results.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax import Array

from jaxllm.gpt import GPT, apply_with_intermediates
from jaxllm.utils.errors import NonFiniteError

WITHIN_BLOCK = ("mlp", "norm_2", "attention", "norm_1")  # as the gradient comes by


def parts_backward(params: dict[str, Any]) -> list[str]:
    """The parts of a GPT, each with parameters of its own, as the gradient comes by: head first, embedding last."""
    n_layers = sum(name.startswith("block_") for name in params)
    blocks = [f"block_{i}/{part}" for i in reversed(range(n_layers)) for part in WITHIN_BLOCK]
    order = ["head", "norm_final", *blocks, "position_embedding", "token_embedding"]
    return [part for part in order if part.partition("/")[0] in params]


def first_not_finite(gradients: dict[str, Any]) -> Array:
    """Which of `parts_backward` has the first gradient that is not finite, int32; -1 where all are.

    Seen by the sum of squares, which clipping needs anyway: a gradient whose square is too large counts as well.
    """

    def of(part: str) -> Any:
        name, _, inner = part.partition("/")
        return gradients[name][inner] if inner else gradients[name]

    wrong = jnp.stack([~jnp.isfinite(optax.tree.norm(of(part), squared=True)) for part in parts_backward(gradients)])
    return jnp.where(wrong.any(), wrong.argmax(), -1).astype(jnp.int32)


def apply_if(finite: Array, new: Any, old: Any) -> Any:
    """The new tree where `finite`, else the old one; but the schedule's count, which goes by steps, is always new."""

    def is_count(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    return jax.tree.map(lambda n, o: n if is_count(n) else jnp.where(finite, n, o), new, old, is_leaf=is_count)


def first_forward(model: GPT, params: dict[str, Any], inputs: Array) -> str | None:
    """The name of the first value on the way through the model that is not finite, without dropout, on any row of
    inputs [B, T]; None where all are. For a message: it runs a row at a time, in little memory."""
    for row in inputs:
        _, seen = apply_with_intermediates(model, params, row[None])
        for name in seen:
            if not bool(jnp.isfinite(seen[name]).all()):
                return name
    return None


def check_computed(values: Any, path: str, params: Any) -> None:
    """Raises NonFiniteError where the model of the run at `path` computed NaN or infinity."""
    if not np.isfinite(values).all():
        raise non_finite(path, params)


def non_finite(path: str, params: Any) -> NonFiniteError:
    """The error of non-finite results, with the first parameter that holds NaN or infinity. Only here are they read."""
    for name, x in flatten_dict(params, sep="/").items():
        if not bool(jnp.isfinite(x).all()):
            return NonFiniteError(
                f"{path} computes non-finite numbers: its parameter {name} holds NaN or infinity; import the model "
                "again, or use another checkpoint."
            )
    return NonFiniteError(
        f"{path} computes non-finite numbers: its parameters are finite, but numbers computed from them are not; "
        "compute in float32, or use another checkpoint."
    )
