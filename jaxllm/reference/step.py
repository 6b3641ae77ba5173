"""A training step: the mean loss of a batch, its gradients, and the update of the parameters."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference import gpt, loss, optimizer
from jaxllm.reference.arrays import Array, chosen, float64, tree_map


class State(NamedTuple):
    """What a training step reads and returns."""

    step: int
    params: Any
    moments: Any  # the state of the optimizer


def start(params: Any, name: str = "adamw") -> State:
    """The state before the first step of the optimizer of that name, from parameters in arrays of any kind."""
    params = tree_map(float64, params)
    return State(0, params, optimizer.start(params, name))


def loss_and_gradients(
    model: Any, params: Any, inputs: ArrayLike, targets: ArrayLike, cotangents: dict[str, Array] | None = None,
    token_loss: Any = "cross-entropy",
) -> tuple[float, Any]:  # fmt: skip
    """The sum of the token losses of inputs and targets [B, T], and its gradients by parameter.

    `cotangents` is filled as in `gpt.forward_vjp`; `token_loss` is the cross-entropy, or a user's twin with `vjp`.
    """
    logits, model_back = gpt.forward_vjp(model, params, inputs, cotangents)
    _, loss_vjp = chosen(token_loss, {"cross-entropy": loss.token_losses}, {"cross-entropy": loss.token_losses_vjp})
    losses, losses_back = loss_vjp(logits, targets)
    d_logits = losses_back(np.ones_like(losses))[0]
    return float(losses.sum()), model_back(d_logits)[1]


def accumulate(
    model: Any,
    params: Any,
    inputs: ArrayLike,
    targets: ArrayLike,
    micro_batches: int = 1,
    cotangents: dict[str, Array] | None = None,
    token_loss: Any = "cross-entropy",
) -> tuple[float, Any]:
    """The mean loss over all tokens and its gradients: sums over micro-batches, divided once at the end.

    `cotangents` is filled as in `gpt.forward_vjp`, with the gradients of the sum for the last micro-batch; `token_loss`
    as in `loss_and_gradients`.
    """
    total, gradients = 0.0, tree_map(lambda p: np.zeros(np.shape(p)), params)
    parts = (np.split(np.asarray(tokens), micro_batches) for tokens in (inputs, targets))
    for x, y in zip(*parts, strict=True):
        loss_sum, micro_gradients = loss_and_gradients(model, params, x, y, cotangents, token_loss)
        total, gradients = total + loss_sum, tree_map(np.add, micro_gradients, gradients)
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
    """The state after one step, and its metrics. `model` is a GPTConfig without dropout, `config` an OptimizerConfig.

    The metrics are train_loss, learning_rate, grad_norm (before clipping) and not_finite, which is -1 for a finite
    step. For a non-finite loss or gradient it is the index in `parts_backward` of the first part whose gradient is
    non-finite; such a step changes neither parameters nor moments and is only counted.
    """
    mean_loss, gradients = accumulate(model, state.params, inputs, targets, micro_batches)
    not_finite = first_not_finite(gradients)
    if not_finite < 0 and not math.isfinite(mean_loss):
        not_finite = 0
    metrics = {
        "train_loss": mean_loss,
        "learning_rate": optimizer.learning_rate(config, steps, state.step),
        "grad_norm": optimizer.global_norm(gradients),
        "not_finite": not_finite,
    }
    if not_finite >= 0:
        return state._replace(step=state.step + 1), metrics
    updates, moments = optimizer.update(
        config, steps, state.step, gradients, state.moments, state.params, model.width_ratio
    )
    return State(state.step + 1, tree_map(np.add, state.params, updates), moments), metrics


def parts_backward(params: Any) -> list[str]:
    """The names of a GPT's parts in the order of the backward, from the head down to the embedding."""
    blocks = sorted([int(name.split("_")[1]) for name in params if name.startswith("block_")], reverse=True)
    outer = ["head", "classifier", "norm_final"], ["position_embedding", "ngram_embedding", "token_embedding"]
    above, below = ([name for name in names if name in params] for names in outer)
    return above + [f"block_{i}/{part}" for i in blocks for part in _inner(params[f"block_{i}"])] + below


def _inner(params: Any) -> list[str]:
    """The parts of a block; those of another kind of block come after those of the usual one, by name."""
    usual = ("norm_2_after", "mlp", "norm_2", "norm_1_after", "attention", "norm_1")
    return [name for name in usual if name in params] + sorted(name for name in params if name not in usual)


def first_not_finite(gradients: Any) -> int:
    """The index in `parts_backward` of the first part with a non-finite gradient, or -1."""
    for index, part in enumerate(parts_backward(gradients)):
        tree = gradients
        for name in part.split("/"):
            tree = tree[name]
        if not math.isfinite(optimizer.global_norm(tree)):
            return index
    return -1
