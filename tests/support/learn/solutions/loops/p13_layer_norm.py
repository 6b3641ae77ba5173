"""Word by word."""

import math

import numpy as np


def layer_norm(x, scale, bias, epsilon):
    if x.ndim > 1:
        return np.stack([layer_norm(one, scale, bias, epsilon) for one in x])
    mean = sum(x) / len(x)
    variance = sum((number - mean) ** 2 for number in x) / len(x)
    root = math.sqrt(variance + epsilon)
    return np.array([(number - mean) / root * a + b for number, a, b in zip(x, scale, bias, strict=True)])
