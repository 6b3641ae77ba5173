"""Losses in nats: the cross-entropy of all tokens or of answers, and that of preferences.

The NumPy twins are in `jaxllm.reference.loss`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxllm.array import Array
from jaxllm.embeddings import token_logits
from jaxllm.fast import has_fast_form
from jaxllm.fast.quantised_weights import Table
from jaxllm.precision import at_least_float32
from jaxllm.utils.ideas import n_arguments

NOT_LEARNED = -1  # in place of a target where nothing is learned: a question, padding


def token_losses(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """-log softmax(logits)[target] of each token, in at least float32. A target outside 0..V-1 gives NaN."""
    z = at_least_float32(logits)
    z = z - jax.lax.stop_gradient(z.max(-1, keepdims=True))
    return jnp.log(jnp.exp(z).sum(-1)) - _entry(z, targets)


def _entry(z: Float[Array, "*batch V"], index: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """z[n, index[n]], NaN where the index is outside 0..V-1."""
    index = jnp.where(index < 0, z.shape[-1], index)
    return jnp.take_along_axis(z, index[..., None], axis=-1, mode="fill", fill_value=jnp.nan)[..., 0]


def cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    weights: Float[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Mean of `token_losses`, or sum(w * loss) / sum(w) with weights; 0 leaves a token out."""
    losses = token_losses(logits, targets)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def takes_hidden(loss: Callable[..., Any]) -> bool:
    """Whether a loss is a function of (hidden states, table of the head, targets), and not of (logits, targets).

    Arguments with a default are not counted.
    """
    return n_arguments(loss) == 3


@has_fast_form
def head_loss(
    table: Float[Table, "V D"], x: Float[Array, "*batch D"], targets: Int[Array, "*batch"],
    weights: Float[Array, "*batch"] | None = None, change: Callable[[Array], Array] | None = None,
) -> Float[Array, ""]:  # fmt: skip
    """The sum of w * loss of the logits x E^T, in at least float32; w is 1 where it is not given.

    `change` is an elementwise function that the logits pass.
    """
    logits = token_logits(table, x)
    losses = token_losses(logits if change is None else change(logits), targets)
    return (losses if weights is None else losses * weights).sum()


def learned(targets: Int[Array, "*batch"]) -> Bool[Array, "*batch"]:
    """At which positions something is learned: where the target is not `NOT_LEARNED`."""
    return targets != NOT_LEARNED


def answer_losses(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """`token_losses` where something is learned, 0 elsewhere.

    Tokens are learned in the answers to questions (Ouyang et al. 2022, section 3.5). With the logits of classes, the
    target of a text's last token is its class, and no other is learned (Raschka 2024, chapter 6).
    """
    here = learned(targets)
    return jnp.where(here, token_losses(logits, jnp.where(here, targets, 0)), 0)


@has_fast_form
def answer_log_probs(
    table: Float[Table, "V D"], x: Float[Array, "*batch T D"], targets: Int[Array, "*batch T"],
    change: Callable[[Array], Array] | None = None,
) -> Float[Array, "*batch"]:  # fmt: skip
    """log p(answer | question) of each row: the sum over its learned tokens, from hidden states x and the head's table.

    In at least float32. `change` is an elementwise function that the logits x E^T pass.
    """
    logits = token_logits(table, x)
    return -answer_losses(logits if change is None else change(logits), targets).sum(-1)


def dpo_margins(
    chosen: Float[Array, "*batch"], rejected: Float[Array, "*batch"], reference_chosen: Float[Array, "*batch"],
    reference_rejected: Float[Array, "*batch"], beta: float,
) -> Float[Array, "*batch"]:  # fmt: skip
    """By how much the implicit reward of the chosen answer exceeds that of the rejected one.

    The arguments are the answers' log-probabilities under the model and under its reference. The reward is beta times
    the logarithm of their ratio. Rafailov et al. 2023, section 4, equation 5.
    """
    return beta * ((chosen - reference_chosen) - (rejected - reference_rejected))


def dpo_losses(
    chosen: Float[Array, "*batch"], rejected: Float[Array, "*batch"], reference_chosen: Float[Array, "*batch"],
    reference_rejected: Float[Array, "*batch"], beta: float,
) -> Float[Array, "*batch"]:  # fmt: skip
    """-log sigmoid(margin) of each pair of answers, with `dpo_margins`. Rafailov et al. 2023, equation 7."""
    return jax.nn.softplus(-dpo_margins(chosen, rejected, reference_chosen, reference_rejected, beta))
