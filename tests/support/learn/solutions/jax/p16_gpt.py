"""In JAX."""

from p13_layer_norm import layer_norm
from p15_block import block


def gpt(params, tokens, n_heads):
    table = params["token_embedding"]["table"]
    x = table[tokens] + params["position_embedding"]["table"][: tokens.shape[1]]
    for i in range(sum(name.startswith("block_") for name in params)):
        x = block(params[f"block_{i}"], x, n_heads)
    return layer_norm(x, **params["norm_final"], epsilon=1e-5) @ table.T
