"""A soft cap on the scores of attention (Gemma 2, section 2): model.score."""

import jax.numpy as jnp
import numpy as np


def attention_cap(score, head, t, s):
    return 2 * jnp.tanh(score / 2)


def attention_cap_twin(score, head, t, s):
    return 2 * np.tanh(score / 2)
