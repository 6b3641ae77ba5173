"""Twin of `train.step`, in float64: one optimizer step, and so a whole training run, in NumPy."""

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
    model: Any, params: Any, inputs: ArrayLike, targets: ArrayLike, felt: dict[str, Array] | None = None
) -> tuple[float, Any]:
    """The sum of the token losses of inputs and targets [B, T], and its gradients; `felt` as in `gpt.forward_vjp`."""
    logits, model_back = gpt.forward_vjp(model, params, inputs, felt)
    losses, losses_back = loss.token_losses_vjp(logits, targets)
    d_logits, _ = losses_back(np.ones_like(losses))
    return float(losses.sum()), model_back(d_logits)[1]


def accumulate(
    model: Any,
    params: Any,
    inputs: ArrayLike,
    targets: ArrayLike,
    micro_batches: int = 1,
    felt: dict[str, Array] | None = None,
) -> tuple[float, Any]:
    """The mean loss over all tokens and its gradients, as sums over micro-batches with one division at the end.

    A mean of means would be the same only where all micro-batches hold equally many tokens.
    """
    total, gradients = 0.0, tree_map(lambda p: np.zeros(np.shape(p)), params)
    parts = (np.split(np.asarray(tokens), micro_batches) for tokens in (inputs, targets))
    for x, y in zip(*parts, strict=True):
        summed, more = loss_and_gradients(model, params, x, y, felt)
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

    Returns the new state and train_loss, learning_rate, grad_norm (before clipping).
    """
    mean_loss, gradients = accumulate(model, state.params, inputs, targets, micro_batches)
    updates, moments = optimizer.update(config, steps, state.step, gradients, state.moments, state.params)
    metrics = {
        "train_loss": mean_loss,
        "learning_rate": optimizer.learning_rate(config, steps, state.step),
        "grad_norm": optimizer.global_norm(gradients),
    }
    return State(state.step + 1, tree_map(np.add, state.params, updates), moments), metrics
