"""The cross-entropy of logits and targets: per token, as a mean, and of a tied head."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Vjp, float64, vjp
from jaxllm.reference.embeddings import token_logits, token_logits_vjp
from jaxllm.reference.layers import softmax


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
