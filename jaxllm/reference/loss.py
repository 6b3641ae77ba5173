"""The cross-entropy: per token, as a mean, of a tied head, of answers; and the loss of preferences."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp
from jaxllm.reference.embeddings import token_logits, token_logits_vjp
from jaxllm.reference.layers import softmax

NOT_LEARNED = -1


def token_losses(logits: ArrayLike, targets: ArrayLike) -> Array:
    """-log softmax(logits)_target = log sum_v exp(logit_v) - logit_target: [..., V], [...] -> [...].

    NaN for a target outside the vocabulary.
    """
    z, targets = float64(logits), np.asarray(targets)
    z = z - z.max(axis=-1, keepdims=True)
    inside = (targets >= 0) & (targets < z.shape[-1])
    chosen = np.take_along_axis(z, np.where(inside, targets, 0)[..., None], axis=-1)[..., 0]
    return np.where(inside, np.log(np.exp(z).sum(axis=-1)) - chosen, np.nan)


@vjp
def token_losses_vjp(logits: ArrayLike, targets: ArrayLike) -> Vjp:
    """dlogit_v = dy (softmax(logits)_v - 1[v = target]): the predicted distribution less the observed one."""
    logits, targets = float64(logits), np.asarray(targets)

    def pullback(dy: Array) -> tuple[Array, None]:
        observed = targets[..., None] == np.arange(logits.shape[-1])
        return np.asarray(dy)[..., None] * (softmax(logits) - observed), None

    return token_losses(logits, targets), pullback


def cross_entropy(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """The weighted mean sum(w l) / sum(w) of the token losses l, with w = 1 by default."""
    losses = token_losses(logits, targets)
    w = np.ones_like(losses) if weights is None else float64(weights)
    return np.asarray((losses * w).sum() / w.sum())


@vjp
def cross_entropy_vjp(logits: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None) -> Vjp:
    """With y = sum(w l) / sum(w): dl = dy w / sum(w) and dw = dy (l - y) / sum(w)."""
    losses, losses_back = token_losses_vjp(logits, targets)
    loss = cross_entropy(logits, targets, weights)
    w = np.ones_like(losses) if weights is None else float64(weights)

    def pullback(dy: Array) -> tuple[Array, None, Array | None]:
        d_weights = None if weights is None else dy * (losses - loss) / w.sum()
        return losses_back(dy * w / w.sum())[0], None, d_weights

    return loss, pullback


def head_loss(
    table: ArrayLike, x: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, change: Any = None
) -> Array:
    """sum(w l) of the token losses l of the logits x E^T, with w = 1 by default.

    `change`, a user's twin, is an elementwise function that the logits pass.
    """
    logits = token_logits(table, x)
    losses = token_losses(logits if change is None else change.function(logits), targets)
    return np.asarray((losses if weights is None else losses * float64(weights)).sum())


@vjp
def head_loss_vjp(
    table: ArrayLike, x: ArrayLike, targets: ArrayLike, weights: ArrayLike | None = None, change: Any = None
) -> Vjp:
    """dw = dy l; dE and dx are the gradient dy w taken back through the losses, the change and the head."""
    logits, head_back = token_logits_vjp(table, x)
    logits, change_back = (logits, lambda dy: (dy,)) if change is None else change.vjp(logits)
    losses, losses_back = token_losses_vjp(logits, targets)
    w = np.ones_like(losses) if weights is None else float64(weights)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dtable, dx = head_back(change_back(losses_back(dy * w)[0])[0])
        return dtable, dx, None, None if weights is None else dy * losses, None

    return head_loss(table, x, targets, weights, change), pullback


def learned(targets: ArrayLike) -> Array:
    """True where a target is not `NOT_LEARNED`."""
    return np.asarray(targets) != NOT_LEARNED


@vjp
def learned_vjp(targets: ArrayLike) -> Vjp:
    """Booleans of integers have no derivative."""
    return learned(targets), lambda dy: (None,)


def answer_losses(logits: ArrayLike, targets: ArrayLike) -> Array:
    """The token losses where something is learned, 0 elsewhere: [..., V], [...] -> [...]."""
    here = learned(targets)
    return np.where(here, token_losses(logits, np.where(here, targets, 0)), 0.0)


@vjp
def answer_losses_vjp(logits: ArrayLike, targets: ArrayLike) -> Vjp:
    """dlogits is that of the token losses, 0 where nothing is learned."""
    here = learned(targets)
    _, losses_back = token_losses_vjp(logits, np.where(here, targets, 0))
    return answer_losses(logits, targets), lambda dy: losses_back(np.where(here, dy, 0.0))


def answer_log_probs(table: ArrayLike, x: ArrayLike, targets: ArrayLike, change: Any = None) -> Array:
    """-sum_t of the answer losses of the logits x E^T: [..., T, D], [..., T] -> [...].

    `change`, a user's twin, is an elementwise function that the logits pass.
    """
    logits = token_logits(table, x)
    return -answer_losses(logits if change is None else change.function(logits), targets).sum(axis=-1)


@vjp
def answer_log_probs_vjp(table: ArrayLike, x: ArrayLike, targets: ArrayLike, change: Any = None) -> Vjp:
    """dE and dx are the gradient -dy of each token's loss, taken back through the losses, the change and the head."""
    logits, head_back = token_logits_vjp(table, x)
    logits, change_back = (logits, lambda dy: (dy,)) if change is None else change.vjp(logits)
    losses, losses_back = answer_losses_vjp(logits, targets)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        of_tokens = np.broadcast_to(-np.asarray(dy)[..., None], losses.shape)
        return *head_back(change_back(losses_back(of_tokens)[0])[0]), None, None

    return -losses.sum(axis=-1), pullback


def dpo_margins(
    chosen: ArrayLike, rejected: ArrayLike, reference_chosen: ArrayLike, reference_rejected: ArrayLike, beta: float
) -> Array:
    """beta (log p(c)/q(c) - log p(r)/q(r)) of a chosen and a rejected answer, q the reference: [...] each."""
    ratio_of_chosen = float64(chosen) - float64(reference_chosen)
    ratio_of_rejected = float64(rejected) - float64(reference_rejected)
    return beta * (ratio_of_chosen - ratio_of_rejected)


@vjp
def dpo_margins_vjp(
    chosen: ArrayLike, rejected: ArrayLike, reference_chosen: ArrayLike, reference_rejected: ArrayLike, beta: float
) -> Vjp:
    """beta dy for the chosen answer, -beta dy for the rejected one, the opposite for the reference."""
    margins = dpo_margins(chosen, rejected, reference_chosen, reference_rejected, beta)

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        d = beta * np.asarray(dy)
        return d, -d, -d, d, None

    return margins, pullback


def dpo_losses(
    chosen: ArrayLike, rejected: ArrayLike, reference_chosen: ArrayLike, reference_rejected: ArrayLike, beta: float
) -> Array:
    """-log sigmoid(m) = log(1 + exp(-m)) of the margin m."""
    return np.logaddexp(0.0, -dpo_margins(chosen, rejected, reference_chosen, reference_rejected, beta))


@vjp
def dpo_losses_vjp(
    chosen: ArrayLike, rejected: ArrayLike, reference_chosen: ArrayLike, reference_rejected: ArrayLike, beta: float
) -> Vjp:
    """dm = -dy sigmoid(-m), and sigmoid(-m) = 1 - exp(-loss): a pair counts more, the further it is from its order."""
    margins, margins_back = dpo_margins_vjp(chosen, rejected, reference_chosen, reference_rejected, beta)
    losses = np.logaddexp(0.0, -margins)
    return losses, lambda dy: margins_back(np.asarray(dy) * np.expm1(-losses))
