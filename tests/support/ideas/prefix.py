"""A prefix of four tokens that attend to each other (Raffel et al. 2020, T5, figure 4): model.visible, train.loss."""

import jax.numpy as jnp
import numpy as np

from jaxllm.loss import token_losses
from jaxllm.reference import loss as reference


def visible(t, s, document_t=None, document_s=None):
    return (s <= t) | (s < 4)


def loss_behind(logits, targets):
    return token_losses(logits, targets) * (jnp.arange(targets.shape[-1]) >= 3)


def loss_behind_twin(logits, targets):
    return reference.token_losses(logits, targets) * (np.arange(np.shape(targets)[-1]) >= 3)


visible_twin = visible
