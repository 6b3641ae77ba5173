"""In PyTorch."""


def attention_scores(x, query, key):
    return (x @ query) @ (x @ key).T


def self_attention(x, query, key, value):
    return attention_scores(x, query, key).softmax(-1) @ (x @ value)
