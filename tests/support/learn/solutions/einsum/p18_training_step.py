"""Products of whole arrays; the decay first, as PyTorch does it."""

import numpy as np


def clip_gradients(gradients, limit):
    norm = sum(np.einsum("i,i->", g.ravel(), g.ravel()) for g in gradients.values()) ** 0.5
    return {name: g * min(1.0, limit / max(norm, 1e-300)) for name, g in gradients.items()}


def adamw_update(parameter, gradient, m, v, step, learning_rate, beta1, beta2, epsilon, weight_decay):
    decayed = parameter * (1 - learning_rate * weight_decay)
    m = np.einsum("k,k...->...", [beta1, 1 - beta1], np.stack([m, gradient]))
    v = np.einsum("k,k...->...", [beta2, 1 - beta2], np.stack([v, gradient**2]))
    root = np.sqrt(v) / np.sqrt(1 - beta2**step) + epsilon
    return decayed - learning_rate / (1 - beta1**step) * m / root, m, v
