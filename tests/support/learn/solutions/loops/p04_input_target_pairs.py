"""Windows, one id after the other."""

import numpy as np


def input_target_pairs(ids, context_length, stride):
    inputs, targets = [], []
    start = 0
    while start + context_length < len(ids):
        inputs.append([ids[start + t] for t in range(context_length)])
        targets.append([ids[start + t + 1] for t in range(context_length)])
        start += stride
    return np.array(inputs), np.array(targets)
