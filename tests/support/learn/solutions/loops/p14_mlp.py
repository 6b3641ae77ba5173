"""Number by number."""

import math

import numpy as np


def gelu(x):
    out = np.empty(x.shape)
    for index, number in np.ndenumerate(x):
        inner = math.sqrt(2 / math.pi) * (number + 0.044715 * number**3)
        out[index] = number * (1 + math.tanh(inner)) / 2
    return out


def linear(params, x):
    out = np.zeros((*x.shape[:-1], len(params["bias"]))) + params["bias"]
    for d in range(x.shape[-1]):
        for f in range(out.shape[-1]):
            out[..., f] += x[..., d] * params["kernel"][d, f]
    return out


def mlp(params, x):
    return linear(params["down"], gelu(linear(params["up"], x)))
