"""The z-loss (Chowdhery et al. 2022, PaLM, section 5): train.loss."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.loss import token_losses
from jaxllm.reference import loss as reference


def z_loss(logits, targets):
    return token_losses(logits, targets) + 0.01 * jnp.square(jax.nn.logsumexp(logits, axis=-1))


def z_loss_twin(logits, targets):
    return reference.token_losses(logits, targets) + 0.01 * np.log(np.exp(logits).sum(-1)) ** 2
