"""In PyTorch."""

import torch.nn.functional as F
from p13_layer_norm import layer_norm
from p15_block import block


def gpt(params, tokens, n_heads):
    table = params["token_embedding"]["table"]
    x = F.embedding(tokens, table) + params["position_embedding"]["table"][: tokens.shape[1]]
    for i in range(sum(name.startswith("block_") for name in params)):
        x = block(params[f"block_{i}"], x, n_heads)
    return F.linear(layer_norm(x, **params["norm_final"], epsilon=1e-5), table)
