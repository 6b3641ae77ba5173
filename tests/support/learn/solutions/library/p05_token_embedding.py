"""Indexing."""

import numpy as np


def token_embedding(table, tokens):
    return np.take(table, tokens, axis=0)
