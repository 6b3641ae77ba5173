"""By library calls."""

from scipy import special


def softmax(x):
    return special.softmax(x, axis=-1)


def simple_attention_weights(x):
    return softmax(x @ x.T)


def simple_attention(x):
    return simple_attention_weights(x) @ x
