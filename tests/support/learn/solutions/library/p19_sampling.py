"""Sorting and searching by NumPy."""

import numpy as np
from scipy.special import softmax


def next_token_probabilities(logits, temperature, top_k=None):
    if temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    scaled = logits / temperature
    if top_k is not None and top_k < len(scaled):
        scaled = np.where(scaled >= np.sort(scaled)[-top_k], scaled, -np.inf)
    return softmax(scaled)


def sample(probabilities, u):
    return int(np.searchsorted(np.cumsum(probabilities), u, side="right"))
