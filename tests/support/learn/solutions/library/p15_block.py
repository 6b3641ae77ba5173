"""By the functions of earlier pieces."""

from p12_multi_head_attention import multi_head_attention
from p13_layer_norm import layer_norm
from p14_mlp import mlp


def block(params, x, n_heads):
    first, second = params["norm_1"], params["norm_2"]
    attended = multi_head_attention(params["attention"], layer_norm(x, first["scale"], first["bias"], 1e-5), n_heads)
    middle = x + attended
    return middle + mlp(params["mlp"], layer_norm(middle, second["scale"], second["bias"], 1e-5))
