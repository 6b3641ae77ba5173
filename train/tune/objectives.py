"""What learning from examples minimises: the losses of answers, of classes and of preferences."""

from functools import partial
from typing import Any, Literal, cast

import jax.numpy as jnp
from jax import Array

from jaxllm.gpt import GPT, head_table, interceptors, summed_loss
from jaxllm.loss import answer_log_probs, answer_losses, dpo_losses, dpo_margins, learned
from jaxllm.softcap import change_of_logits

from ..objective import Objective, Sums
from .batches import Answers, Preferences

Kind = Literal["instruct", "classify", "prefer"]
ACCURACY, MARGIN = "train_accuracy", "train_margin"


def objective(kind: Kind, beta: float = 0.1) -> Objective:
    """The objective of a kind; `beta` is that of preferences.

    - instruct: the cross-entropy of each learned token. Inputs are [B, T], targets `Answers`.
    - classify: the cross-entropy of the label of each text, and whether it is the likeliest. Inputs and targets as of
      instruct; the model is a classifier.
    - prefer: DPO's loss of each pair of answers, the margin, and whether it is positive. Inputs are [B, 2, T], targets
      `Preferences`.
    """
    if kind == "instruct":
        return Objective(_answers, _n_learned)
    if kind == "classify":
        return Objective(_labels, _n_learned, (ACCURACY,))
    return Objective(partial(_preferences, beta), _n_pairs, (ACCURACY, MARGIN))


def _n_learned(targets: Answers) -> Array:
    """The number of learned positions, at least 1, so that a batch without one has the loss 0."""
    return jnp.maximum(learned(targets.ids).sum(), 1)


def _n_pairs(targets: Preferences) -> Array:
    """The number of pairs in which something is learned, at least 1."""
    return jnp.maximum(_is_pair(targets).sum(), 1)


def _is_pair(targets: Preferences) -> Array:
    return learned(targets.ids).any((1, 2))


def _answers(model: GPT, params: Any, inputs: Array, targets: Answers, rngs: Any) -> tuple[Array, Sums]:
    here = learned(targets.ids)
    ids, weights = jnp.where(here, targets.ids, 0), here.astype(jnp.float32)
    return summed_loss(model, params, inputs, ids, weights, rngs, **_packed(targets)), {}


def _packed(targets: Answers) -> dict[str, Any]:
    """The arguments of the model by which several texts share a row; none where a row holds one."""
    return {} if targets.documents is None else {"documents": targets.documents, "positions": targets.positions}


def _labels(model: GPT, params: Any, inputs: Array, targets: Answers, rngs: Any) -> tuple[Array, Sums]:
    logits = class_logits(model, params, inputs, targets, rngs)
    right = learned(targets.ids) & (logits.argmax(-1) == targets.ids)
    return answer_losses(logits, targets.ids).sum(), {ACCURACY: right.sum().astype(jnp.float32)}


def class_logits(model: GPT, params: Any, inputs: Array, targets: Answers, rngs: Any = None) -> Array:
    """The logits [B, T, C] of a classifier at each position, of inputs [B, T]."""
    return cast(Array, model.apply({"params": params}, inputs, rngs=rngs, **_packed(targets)))


def _preferences(
    beta: float, model: GPT, params: Any, inputs: Array, targets: Preferences, rngs: Any
) -> tuple[Array, Sums]:
    counts = _is_pair(targets)
    given = (*log_probs(model, params, inputs, targets.ids, rngs).T, *targets.reference.T, beta)
    margins, losses = dpo_margins(*given), dpo_losses(*given)
    sums = {ACCURACY: (counts & (margins > 0)).sum().astype(jnp.float32), MARGIN: jnp.where(counts, margins, 0).sum()}
    return jnp.where(counts, losses, 0).sum(), sums


def log_probs(model: GPT, params: Any, inputs: Array, ids: Array, rngs: Any = None) -> Array:
    """The log-probability [B, 2] of both answers of each pair, of inputs and targets [B, 2, T].

    With interceptors active it is that of the logits that `model.apply` returns, which they may change.
    """
    rows, targets, config = inputs.reshape(-1, inputs.shape[-1]), ids.reshape(-1, ids.shape[-1]), model.config
    apply = partial(model.apply, {"params": params}, rows, rngs=rngs)
    if interceptors():
        summed = -answer_losses(cast(Array, apply()), targets).sum(-1)
    else:
        hidden = cast(Array, apply(method="hidden"))
        summed = answer_log_probs(head_table(config, params), hidden, targets, change_of_logits(config))
    return summed.reshape(inputs.shape[:2])
