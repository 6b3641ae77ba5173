"""Embeddings by one-hot vectors, the head by einsum."""

import numpy as np
from p15_block import block, norm


def gpt(params, tokens, n_heads):
    table = params["token_embedding"]["table"]
    x = np.einsum("btv,vd->btd", np.eye(len(table))[tokens], table)
    x = x + params["position_embedding"]["table"][None, : tokens.shape[1]]
    for name in sorted((name for name in params if name.startswith("block_")), key=lambda name: int(name[6:])):
        x = block(params[name], x, n_heads)
    return np.einsum("btd,vd->btv", norm(params["norm_final"], x), table)
