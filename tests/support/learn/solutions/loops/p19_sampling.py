"""One token after the other."""

import math

import numpy as np


def next_token_probabilities(logits, temperature, top_k=None):
    n = len(logits)
    best = 0
    for i in range(n):
        if logits[i] > logits[best]:
            best = i
    out = np.zeros(n)
    if temperature == 0:
        out[best] = 1.0
        return out
    for i in range(n):
        larger = 0
        for other in logits:
            if other > logits[i]:
                larger += 1
        if top_k is None or larger < top_k:
            out[i] = math.exp((logits[i] - logits[best]) / temperature)
    return out / sum(out)


def sample(probabilities, u):
    total = 0.0
    for i in range(len(probabilities)):
        total += probabilities[i]
        if total > u:
            return i
    return len(probabilities) - 1
