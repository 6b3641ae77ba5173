"""How large a gradient would be if nothing cancelled: the fair scale for the rounding of queries and keys.

The gradient at a query is sum_s dS_s k_s with dS = P (dP - sum P dP), so the dS of a query sum to zero. Where the keys
are nearly alike, as before a model has learnt much, the sum all but vanishes, and so does that at the keys where the
queries are alike; the rounding of its terms does not. Its size is that of the terms: the root of their summed squares,
which for terms of random sign is the size of the sum itself (error analysis as in Higham, Accuracy and Stability of
Numerical Algorithms, chapter 4, with random in place of worst signs).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllm.config import GPTConfig
from jaxllm.reference.attention import merge_heads, repeat_heads, split_heads


def query_key_scales(
    config: GPTConfig, params: Mapping[str, Any], seen: Mapping[str, Any], felt: Mapping[str, Any]
) -> dict[str, float]:
    """For each block the scale of the gradients at queries and keys, and of their kernels and biases.

    From the reference's own float64 numbers: `seen` holds the intermediates and `felt` the gradients at them, under
    the names of `jaxllm.gpt.apply_with_intermediates`; so do the scales returned, each the largest of its tensor.
    """
    scales = {}
    for i in range(config.n_layers):
        block, where = params[f"block_{i}"]["attention"], f"block_{i}/attention"
        x2 = np.square(seen[f"block_{i}/norm_1"])
        for name, terms2 in _squared_terms(config, block, seen, felt[where], where).items():
            kernel2 = np.einsum("btd,bte->de", x2, terms2)
            for leaf, squares in (("", terms2), ("/kernel", kernel2), ("/bias", terms2.sum((0, 1)))):
                scales[f"{where}/{name}{leaf}"] = float(np.sqrt(squares.max()))
    return scales


def _squared_terms(
    config: GPTConfig, params: Mapping[str, Any], seen: Mapping[str, Any], dy: np.ndarray, where: str
) -> dict[str, np.ndarray]:
    """Summed squares of the terms of the gradients [B, T, D] at queries and keys; dy is that at the attention."""
    heads, groups = config.n_heads, config.kv_heads
    q2 = split_heads(np.square(seen[f"{where}/query"]), heads)
    k2, v2 = (repeat_heads(split_heads(np.square(seen[f"{where}/{x}"]), groups), heads) for x in ("key", "value"))
    p2 = np.square(seen[f"{where}/weights"])  # [B, H, T, S]
    d_heads2 = split_heads(np.square(dy @ params["output"]["kernel"].T), heads)
    d_weights2 = d_heads2 @ v2.swapaxes(-1, -2)
    d_scores2 = p2 * (d_weights2 + (p2 * d_weights2).sum(-1, keepdims=True)) / q2.shape[-1]
    d_keys2 = d_scores2.swapaxes(-1, -2) @ q2
    shared = d_keys2.reshape(d_keys2.shape[0], groups, heads // groups, *d_keys2.shape[2:]).sum(2)
    return {"query": merge_heads(d_scores2 @ k2), "key": merge_heads(shared)}
