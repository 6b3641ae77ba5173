"""The product with a one-hot array."""

import numpy as np


def token_embedding(table, tokens):
    one_hot = (tokens[..., None] == np.arange(len(table))).astype(float)
    return np.einsum("...v,vd->...d", one_hot, table)
