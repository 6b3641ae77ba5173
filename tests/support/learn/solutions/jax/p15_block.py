"""In JAX."""

from p12_multi_head_attention import multi_head_attention
from p13_layer_norm import layer_norm
from p14_mlp import mlp


def block(params, x, n_heads):
    x = x + multi_head_attention(params["attention"], layer_norm(x, **params["norm_1"], epsilon=1e-5), n_heads)
    return x + mlp(params["mlp"], layer_norm(x, **params["norm_2"], epsilon=1e-5))
