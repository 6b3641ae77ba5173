"""Squared ReLU (So et al. 2021, Primer): model.activation."""

import jax.numpy as jnp
import numpy as np


def squared_relu(x):
    return jnp.square(jnp.maximum(x, 0))


def squared_relu_twin(x):
    return np.maximum(x, 0) ** 2
