"""A soft cap on the logits (Gemma 2, section 2): model.logits."""

import jax.numpy as jnp
import numpy as np


def logit_cap(logits):
    return 3 * jnp.tanh(logits / 3)


def logit_cap_twin(logits):
    return 3 * np.tanh(logits / 3)


def logit_cap_twin_vjp(logits):
    y = logit_cap_twin(logits)
    return y, lambda dy: (dy * (1 - (y / 3) ** 2),)
