"""By library calls."""

import numpy as np


def layer_norm(x, scale, bias, epsilon):
    deviation = np.sqrt(np.var(x, axis=-1, keepdims=True) + epsilon)
    return np.divide(np.subtract(x, np.mean(x, axis=-1, keepdims=True)), deviation) * scale + bias
