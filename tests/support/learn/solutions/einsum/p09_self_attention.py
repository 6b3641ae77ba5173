"""By einsum: each result is one sum over all factors."""

import numpy as np
from p08_simple_attention import softmax


def attention_scores(x, query, key):
    return np.einsum("td,dk,se,ek->ts", x, query, x, key)


def self_attention(x, query, key, value):
    return np.einsum("ts,sd,dw->tw", softmax(attention_scores(x, query, key)), x, value)
