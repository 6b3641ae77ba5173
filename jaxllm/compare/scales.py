"""How large a number would be if nothing cancelled: the fair scale for the rounding of what all but vanishes.

A model that has learnt little has keys that are nearly alike. The gradient at a query is sum_s dS_s k_s with
dS = P (dP - sum P dP), and the dS of a query sum to zero, so it is nearly nothing; so is that at the keys where the
queries are alike. A model that is sure of its tokens has P - 1 at the logits, the same again. The rounding of the terms
does not vanish with their sum: its size is that of the terms. Here that is the root of their summed squares, which for
terms of random sign is the size of the sum itself (error analysis as in Higham, Accuracy and Stability of Numerical
Algorithms, chapter 4, with random in place of worst signs).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllm.compare.report import largest, named_leaves, scales_of_vanishing
from jaxllm.config import GPTConfig
from jaxllm.reference.attention import merge_heads, repeat_heads, split_heads

Named = Mapping[str, Any]


def loss_scale(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean size of what a loss subtracts, the logit of its target: logits [B, T, V], targets [B, T] -> a number."""
    inside = np.clip(targets, 0, logits.shape[-1] - 1)  # what a target outside costs, NaN, needs no scale
    return float(np.abs(np.take_along_axis(logits, inside[..., None], axis=-1)).mean())


def gradient_scales(config: GPTConfig, params: Named, seen: Named, felt: Named, gradients: Named) -> dict[str, float]:
    """The scale of the gradient at each intermediate in `felt`, and of each parameter, by the names of both.

    All from the reference in float64: `seen` holds the intermediates, `felt` the gradients of the mean loss at them,
    under the names of `jaxllm.gpt.apply_with_intermediates`. A scale is the largest value of the tensor, or what its
    terms give where that is more; an error at the logits comes down into every gradient below.
    """
    own = {name: largest(x) for name, x in (dict(felt) | named_leaves(gradients)).items()}
    terms = scales_of_vanishing(gradients) | _query_key_scales(config, params, seen, felt)
    tokens = felt["logits"][..., 0].size
    sure = max(1.0, 1 / tokens / own["logits"]) if own["logits"] else 1.0  # P and 1, over P - 1
    return {name: sure * max(size, terms.get(name, 0.0)) for name, size in own.items()}


def _query_key_scales(config: GPTConfig, params: Named, seen: Named, felt: Named) -> dict[str, float]:
    """For each block those of queries and keys, of their kernels and of their biases."""
    scales = {}
    for i in range(0 if config.qk_norm else config.n_layers):  # a norm keeps them at unit size
        where = f"block_{i}/attention"
        x2 = np.square(seen[f"block_{i}/norm_1"]).reshape(-1, config.d_model)
        for name, terms2 in _squared_terms(config, params[f"block_{i}"]["attention"], seen, felt[where], where).items():
            size2 = np.maximum(terms2, np.square(felt[f"{where}/{name}"]))
            kernel2 = x2.T @ size2.reshape(len(x2), -1)
            for leaf, squares in (("", size2), ("/kernel", kernel2), ("/bias", size2.sum((0, 1)))):
                scales[f"{where}/{name}{leaf}"] = float(np.sqrt(squares.max()))
    return scales


def _squared_terms(config: GPTConfig, params: Named, seen: Named, dy: np.ndarray, where: str) -> dict[str, np.ndarray]:
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
