"""Comparisons of all with all."""

import numpy as np


def next_token_probabilities(logits, temperature, top_k=None):
    if temperature == 0:
        return (logits == logits.max()).astype(float)
    ranks = np.einsum("ij->i", (logits[None, :] > logits[:, None]).astype(int))
    weights = np.exp((logits - logits.max()) / temperature) * (ranks < (len(logits) if top_k is None else top_k))
    return weights / np.einsum("i->", weights)


def sample(probabilities, u):
    sums = np.einsum("j,ij->i", probabilities, np.tri(len(probabilities)))
    return int((sums <= u).sum())
