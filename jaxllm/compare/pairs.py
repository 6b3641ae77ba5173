"""Two models side by side: their parameters, and what they compute on the same tokens.

Errors are those of the second model, relative to the largest value of each tensor of the first. A key's bias, whose
gradient is nothing but rounding, is measured on the scale of its kernel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.compare.measure import Comparison, held_to_nothing, largest, measure
from jaxllm.compare.tolerances import arithmetic
from jaxllm.compare.trees import named_leaves
from jaxllm.config import GPTConfig
from jaxllm.gpt import GPT
from jaxllm.looking import look
from jaxllm.loss import cross_entropy

PARAMETERS, OUTPUTS = "parameters", "on the same text"  # the stages of the rows


class NamedModel(NamedTuple):
    """One of the two models."""

    name: str
    config: GPTConfig
    params: Any


def compare_parameters(ours: NamedModel, theirs: NamedModel, tolerance: float = 0.0) -> list[Comparison]:
    """A comparison for each parameter, those of `ours` first.

    A parameter that only one model has, or that has another shape in each, is held to nothing.
    """
    sides = [named_leaves(jax.device_get(side.params)) for side in (ours, theirs)]
    return _compare(PARAMETERS, sides, (ours.name, theirs.name), tolerance, "float32")


def compare_outputs(
    ours: NamedModel, theirs: NamedModel, inputs: Any, targets: Any, tolerance: float = 0.0, dtype: str = "float32"
) -> list[Comparison]:
    """Comparisons on inputs and targets [B, T], without dropout, computed in `dtype`.

    They are the values after the embeddings, each block and the last norm, then the logits and the mean cross-entropy
    in nats. Values of another shape in each model are held to nothing.
    """
    sides = [_outputs(side, inputs, targets, dtype) for side in (ours, theirs)]
    rows = _compare(OUTPUTS, sides, (ours.name, theirs.name), tolerance, dtype)
    first, second = (float(side["loss"]) for side in sides)
    return [replace(row, note=f"{first:.6f} and {second:.6f}") if row.name == "loss" else row for row in rows]


def _outputs(side: NamedModel, inputs: Any, targets: Any, dtype: str) -> dict[str, np.ndarray]:
    """Intermediates of the first level, logits and loss, by name."""
    model = GPT(side.config, None if dtype == "float64" else dtype)

    @jax.jit
    def run(params: Any, inputs: Any, targets: Any) -> dict[str, Any]:
        seen = look(model, params, inputs)
        within = {name: x for name, x in seen.intermediates.items() if "/" not in name and name != "logits"}
        return within | {"logits": seen.logits, "loss": cross_entropy(seen.logits, targets)}

    with arithmetic(dtype):
        wide = "float64" if dtype == "float64" else "float32"
        params = jax.tree.map(lambda p: jnp.asarray(p, wide), side.params)
        computed = jax.device_get(run(params, inputs, targets))
    return {name: computed[name] for name in _order(computed)}


def _order(computed: Mapping[str, Any]) -> list[str]:
    """The names in the order of computation: `jit` sorts them."""
    blocks = [f"block_{i}" for i in range(sum(name.startswith("block_") for name in computed))]
    last = [name for name in ("norm_final", "logits", "loss") if name in computed]
    first = sorted(computed.keys() - {*blocks, *last}, key=lambda name: (name != "token_embedding", name))
    return [*first, *blocks, *last]


def _compare(
    stage: str, sides: Sequence[Mapping[str, Any]], names: tuple[str, str], tolerance: float, dtype: str
) -> list[Comparison]:
    """A row for each name of either side, in the order of the first."""
    ours, theirs = sides
    rows = []
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        if name not in theirs or name not in ours:
            only = names[0] if name in ours else names[1]
            rows += held_to_nothing(stage, {name: (ours if name in ours else theirs)[name]}, f"only in {only}")
        elif np.shape(ours[name]) != np.shape(theirs[name]):
            other = " x ".join(map(str, np.shape(theirs[name]))) or "scalar"
            rows += held_to_nothing(stage, {name: ours[name]}, f"{other} in {names[1]}")
        else:
            scale = _scale(name, ours)
            row = measure(stage, name, theirs[name], ours[name], tolerance, dtype, scale)
            rows.append(row if scale is None else replace(row, note=""))
    return rows


def _scale(name: str, ours: Mapping[str, Any]) -> float | None:
    """What the errors of a key's bias are relative to: the largest value of it and its kernel. None for all others."""
    if not name.endswith("key/bias"):
        return None
    return max(largest(ours[name]), largest(ours.get(name.removesuffix("bias") + "kernel", 0.0)))
