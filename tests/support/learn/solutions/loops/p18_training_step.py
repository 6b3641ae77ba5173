"""One parameter after the other."""

import math

import numpy as np


def clip_gradients(gradients, limit):
    total = 0.0
    for gradient in gradients.values():
        for place in np.ndindex(gradient.shape):
            total += gradient[place] * gradient[place]
    factor = 1.0
    if math.sqrt(total) > limit:
        factor = limit / math.sqrt(total)
    clipped = {}
    for name in gradients:
        clipped[name] = gradients[name] * factor
    return clipped


def adamw_update(parameter, gradient, m, v, step, learning_rate, beta1, beta2, epsilon, weight_decay):
    new, new_m, new_v = np.zeros(m.shape), np.zeros(m.shape), np.zeros(m.shape)
    for place in np.ndindex(m.shape):
        p, g = parameter[place], gradient[place]
        new_m[place] = beta1 * m[place] + (1 - beta1) * g
        new_v[place] = beta2 * v[place] + (1 - beta2) * g * g
        mean = new_m[place] / (1 - beta1**step)
        size = math.sqrt(new_v[place] / (1 - beta2**step))
        new[place] = p - learning_rate * (mean / (size + epsilon) + weight_decay * p)
    return new, new_m, new_v
