"""All in one expression for each half."""

from p12_multi_head_attention import multi_head_attention
from p13_layer_norm import layer_norm
from p14_mlp import mlp


def norm(params, x):
    return layer_norm(x, **params, epsilon=1e-5)


def block(params, x, n_heads):
    x = x + multi_head_attention(params["attention"], norm(params["norm_1"], x), n_heads)
    return x + mlp(params["mlp"], norm(params["norm_2"], x))
