"""One number after the other."""

import math

import numpy as np


def add_learned_positions(x, table):
    out = np.zeros(x.shape)
    for place in np.ndindex(x.shape):
        out[place] = x[place] + table[place[-2], place[-1]]
    return out


def sinusoidal_positions(length, d_model):
    out = np.zeros((length, d_model))
    for t in range(length):
        for d in range(d_model):
            angle = t / 10000 ** ((d - d % 2) / d_model)
            out[t, d] = math.sin(angle) if d % 2 == 0 else math.cos(angle)
    return out
