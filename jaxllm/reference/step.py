"""Twin of `train.step`, in float64: one optimizer step, and so a whole training run, in NumPy."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference import gpt, loss, optimizer
from jaxllm.reference.arrays import Array, float64, tree_map


class State(NamedTuple):
    """All that changes during training."""

    step: int
    params: Any
    moments: optimizer.Moments


def start(params: Any) -> State:
    """The state before the first step, from parameters of any kind of array."""
    params = tree_map(float64, params)
    return State(0, params, optimizer.start(params))


def loss_and_gradients(
    model: Any, params: Any, inputs: ArrayLike, targets: ArrayLike, cotangents: dict[str, Array] | None = None
) -> tuple[float, Any]:
    """The sum of the token losses of inputs and targets [B, T], and its gradients by parameter.

    `cotangents` is filled as in `gpt.forward_vjp`.
    """
    logits, model_back = gpt.forward_vjp(model, params, inputs, cotangents)
    losses, losses_back = loss.token_losses_vjp(logits, targets)
    d_logits, _ = losses_back(np.ones_like(losses))
    return float(losses.sum()), model_back(d_logits)[1]


def accumulate(
    model: Any,
    params: Any,
    inputs: ArrayLike,
    targets: ArrayLike,
    micro_batches: int = 1,
    cotangents: dict[str, Array] | None = None,
) -> tuple[float, Any]:
    """The mean loss over all tokens and its gradients, as sums over micro-batches with one division at the end.

    A mean of means would be the same only where all micro-batches hold equally many tokens.
    """
    total, gradients = 0.0, tree_map(lambda p: np.zeros(np.shape(p)), params)
    parts = (np.split(np.asarray(tokens), micro_batches) for tokens in (inputs, targets))
    for x, y in zip(*parts, strict=True):
        summed, more = loss_and_gradients(model, params, x, y, cotangents)
        total, gradients = total + summed, tree_map(np.add, more, gradients)
    n = np.size(targets)
    return total / n, tree_map(lambda g: g / n, gradients)


def train_step(
    model: Any,
    config: Any,
    steps: int,
    state: State,
    inputs: ArrayLike,
    targets: ArrayLike,
    micro_batches: int = 1,
) -> tuple[State, dict[str, float]]:
    """Gradient, clipping, AdamW. `model` is a GPTConfig without dropout, `config` an OptimizerConfig.

    Returns the new state and train_loss, learning_rate, grad_norm (before clipping), not_finite: -1, or where the loss
    or the gradient is not finite the place of the first such part in `parts_backward`; such a step is only counted.
    """
    mean_loss, gradients = accumulate(model, state.params, inputs, targets, micro_batches)
    wrong = first_not_finite(gradients)
    if wrong < 0 and not math.isfinite(mean_loss):
        wrong = 0
    metrics = {
        "train_loss": mean_loss,
        "learning_rate": optimizer.learning_rate(config, steps, state.step),
        "grad_norm": optimizer.global_norm(gradients),
        "not_finite": wrong,
    }
    if wrong >= 0:
        return state._replace(step=state.step + 1), metrics
    updates, moments = optimizer.update(config, steps, state.step, gradients, state.moments, state.params)
    return State(state.step + 1, tree_map(np.add, state.params, updates), moments), metrics


def parts_backward(params: Any) -> list[str]:
    """The parts of a GPT in the order in which the gradient comes by: from the head down to the embedding."""
    depth = len([name for name in params if name.startswith("block_")])
    inner = ("mlp", "norm_2", "attention", "norm_1")
    outer = ["head", "norm_final"], ["position_embedding", "token_embedding"]
    above, below = ([name for name in names if name in params] for names in outer)
    return above + [f"block_{i}/{part}" for i in range(depth - 1, -1, -1) for part in inner] + below


def first_not_finite(gradients: Any) -> int:
    """The place in `parts_backward` of the first part whose gradient is not finite; -1 where all are."""
    for place, part in enumerate(parts_backward(gradients)):
        tree = gradients
        for name in part.split("/"):
            tree = tree[name]
        if not math.isfinite(optimizer.global_norm(tree)):
            return place
    return -1
