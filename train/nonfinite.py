"""Non-finite numbers: training steps that are left out, the part of the model where they began, and trained models.

A step with a non-finite loss or gradient leaves parameters and moments unchanged, but is counted, so that the schedule
stays in step with the data (with optax.apply_if_finite it falls behind). An index names the first module, in backward
order, with a non-finite gradient.
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

WITHIN_BLOCK = ("norm_2_after", "mlp", "norm_2", "norm_1_after", "attention", "norm_1")  # in backward order


def parts_backward(params: dict[str, Any]) -> list[str]:
    """The parts of a GPT, or of a part of its parameters, in backward order: head first, token embedding last."""
    names = sorted((name for name in params if name.startswith("block_")), key=lambda name: -int(name[len("block_") :]))
    blocks = [f"{name}/{part}" for name in names for part in _parts_of_block(params[name])]
    order = ["head", "classifier", "norm_final", *blocks, "position_embedding", "ngram_embedding", "token_embedding"]
    return [part for part in order if part.partition("/")[0] in params]


def _parts_of_block(params: dict[str, Any]) -> list[str]:
    """Those of `Block`, then those that only a user's block has."""
    return [name for name in WITHIN_BLOCK if name in params] + sorted(set(params) - set(WITHIN_BLOCK))


def first_not_finite(gradients: dict[str, Any]) -> Array:
    """The index in `parts_backward` of the first part with a non-finite gradient, int32; -1 if there is none.

    It is found by the sum of squares, which clipping needs anyway, so a gradient whose square overflows counts as well.
    """

    def gradient(part: str) -> Any:
        name, _, inner = part.partition("/")
        return gradients[name][inner] if inner else gradients[name]

    wrong = jnp.stack(
        [~jnp.isfinite(optax.tree.norm(gradient(part), squared=True)) for part in parts_backward(gradients)]
    )
    return jnp.where(wrong.any(), wrong.argmax(), -1).astype(jnp.int32)


def apply_if(finite: Array, new: Any, old: Any) -> Any:
    """The new tree if `finite`, else the old one; the counts of schedules, which count steps, are always new."""

    def choose(n: Any, o: Any) -> Any:
        if isinstance(n, optax.ScaleByScheduleState):
            return n
        if isinstance(n, optax.contrib.ScheduleFreeState):
            kept = optax.contrib.ScheduleFreeState(*apply_if(finite, tuple(n), tuple(o)))
            return kept._replace(step_count=n.step_count)
        return jnp.where(finite, n, o)

    with_a_count = (optax.ScaleByScheduleState, optax.contrib.ScheduleFreeState)
    return jax.tree.map(choose, new, old, is_leaf=lambda node: isinstance(node, with_a_count))


def first_forward(model: GPT, params: dict[str, Any], inputs: Array) -> str | None:
    """The name of the first non-finite intermediate of the model, on any row of inputs [B, T]; None if all are finite.

    Without dropout. It runs one row at a time, to need little memory.
    """
    for row in inputs:
        _, seen = apply_with_intermediates(model, params, row[None])
        for name in seen:
            if not bool(jnp.isfinite(seen[name]).all()):
                return name
    return None


def check_computed(values: Any, path: str, params: Any) -> None:
    """Raises NonFiniteError if the model of the run at `path` computed NaN or infinity."""
    if not np.isfinite(values).all():
        raise non_finite(path, params)


def non_finite(path: str, params: Any) -> NonFiniteError:
    """The error for non-finite results; it names the first parameter that holds NaN or infinity."""
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
