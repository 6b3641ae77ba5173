"""By library calls."""

import numpy as np
from scipy import special


def attention_scores(x, query, key):
    return np.linalg.multi_dot([x, query, key.T, x.T])


def self_attention(x, query, key, value):
    return special.softmax(attention_scores(x, query, key), -1) @ (x @ value)
