"""In JAX."""

import jax


def attention_scores(x, query, key):
    return (x @ query) @ (x @ key).T


def self_attention(x, query, key, value):
    return jax.nn.softmax(attention_scores(x, query, key)) @ (x @ value)
