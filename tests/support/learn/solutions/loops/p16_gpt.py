"""Text by text, word by word."""

import numpy as np
from p13_layer_norm import layer_norm
from p15_block import block


def gpt(params, tokens, n_heads):
    words, places = params["token_embedding"]["table"], params["position_embedding"]["table"]
    logits = np.zeros((*tokens.shape, len(words)))
    for b, text in enumerate(tokens):
        x = np.array([words[token] + places[t] for t, token in enumerate(text)])
        i = 0
        while f"block_{i}" in params:
            x = block(params[f"block_{i}"], x, n_heads)
            i += 1
        x = layer_norm(x, params["norm_final"]["scale"], params["norm_final"]["bias"], 1e-5)
        for t in range(len(text)):
            for token in range(len(words)):
                logits[b, t, token] = sum(x[t] * words[token])
    return logits
