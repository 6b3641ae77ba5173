"""What a training step makes small: a sum of losses over a batch, and the number that it is divided by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxllm.gpt import GPT, summed_loss

from .config import TrainConfig

Sums = dict[str, Array]  # of further figures of a step, scalars


class Objective(NamedTuple):
    """The mean of `loss` over `n_losses` is minimised.

    A batch is inputs and targets: arrays, or a tree of arrays, whose first axis is that of the batch. The sum is taken
    over each microbatch, the count over the whole batch, so that microbatches of unequal counts weigh as they should.
    """

    loss: Callable[[GPT, Any, Array, Any, Any], tuple[Array, Sums]]  # (model, params, inputs, targets, rngs) -> sums
    n_losses: Callable[[Any], Array | int]  # targets of the whole batch -> the number of losses in the sum
    further: tuple[str, ...] = ()  # names of the further sums

    def zeros(self) -> Sums:
        """Sums to begin with."""
        return {name: jnp.zeros(()) for name in self.further}


def next_token(config: TrainConfig) -> Objective:
    """The cross-entropy of each next token, or `config.loss`; targets are int [B, T]."""

    def loss(model: GPT, params: Any, inputs: Array, targets: Array, rngs: Any) -> tuple[Array, Sums]:
        return summed_loss(model, params, inputs, targets, rngs=rngs, loss=config.loss), {}

    return Objective(loss, lambda targets: targets.size)
