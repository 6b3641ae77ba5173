"""By library calls: tanh(u) is 2 expit(2 u) - 1."""

import numpy as np
from scipy import special


def gelu(x):
    return x * special.expit(2 * np.sqrt(2 / np.pi) * np.polyval([0.044715, 0, 1, 0], x))


def mlp(params, x):
    hidden = gelu(np.dot(x, params["up"]["kernel"]) + params["up"]["bias"])
    return np.dot(hidden, params["down"]["kernel"]) + params["down"]["bias"]
