"""Norms by NumPy, and means as steps towards the new value."""

import numpy as np


def clip_gradients(gradients, limit):
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in gradients.values()]))
    if norm <= limit:
        return gradients
    return {name: np.multiply(g, limit / norm) for name, g in gradients.items()}


def adamw_update(parameter, gradient, m, v, step, learning_rate, beta1, beta2, epsilon, weight_decay):
    m = m + (1 - beta1) * (gradient - m)
    v = v + (1 - beta2) * (np.square(gradient) - v)
    direction = np.divide(m / (1 - beta1**step), np.sqrt(v / (1 - beta2**step)) + epsilon)
    return parameter - learning_rate * direction - learning_rate * weight_decay * parameter, m, v
