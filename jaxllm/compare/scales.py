"""The scale of a gradient whose terms cancel: the size of the terms, because their rounding does not cancel.

In a model that has learnt little, the keys are nearly alike. The gradient at a query is sum_s dS_s k_s with
dS = P (dP - sum P dP). The dS of a query sum to zero, so the gradient nearly vanishes; so does that at the keys where
the queries are alike. In a model that is sure of its tokens, the gradient P - 1 at the logits nearly vanishes.

The size of the terms is the root of their summed squares, which for terms of random sign is also the size of the sum
(error analysis as in Higham, Accuracy and Stability of Numerical Algorithms, chapter 4, with random in place of worst
signs).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxllm.compare.measure import largest
from jaxllm.compare.trees import named_leaves
from jaxllm.config import GPTConfig
from jaxllm.reference.attention import merge_heads, repeat_heads, split_heads

VANISHES = 1e-12  # a float64 gradient of less than this, relative to the largest of its module, is rounding

Named = Mapping[str, Any]


def scales_of_vanishing(gradients: Any, root: str = "") -> dict[str, float]:
    """For each gradient that is zero but for rounding, by name, the largest value among the gradients of its module.

    A key's bias is such a parameter: it adds the same to all scores of a query.
    """
    sizes = {name: largest(leaf) for name, leaf in named_leaves(gradients, root).items()}
    modules: dict[str, float] = {}
    for name, size in sizes.items():
        modules[_module(name)] = max(size, modules.get(_module(name), 0.0))
    return {name: modules[_module(name)] for name, size in sizes.items() if size <= VANISHES * modules[_module(name)]}


def _module(name: str) -> str:
    return name.rpartition("/")[0]


def loss_scale(logits: np.ndarray, targets: np.ndarray) -> float:
    """The mean size of the logit of the target, which the loss subtracts: logits [B, T, V], targets [B, T]."""
    inside = np.clip(targets, 0, logits.shape[-1] - 1)  # the loss of a target outside is NaN and needs no scale
    return float(np.abs(np.take_along_axis(logits, inside[..., None], axis=-1)).mean())


def gradient_scales(
    config: GPTConfig, params: Named, intermediates: Named, cotangents: Named, gradients: Named
) -> dict[str, float]:
    """The scale of the gradient at each intermediate and at each parameter, by name.

    All arguments are float64, from the reference: `cotangents` are the gradients of the mean loss at `intermediates`,
    under the names of `jaxllm.gpt.apply_with_intermediates`, and `gradients` those at `params`. A scale is the largest
    value of the tensor or the size of its terms, whichever is larger. Where the logits' gradient cancels, all scales
    grow with its own, because its error passes into every gradient below.
    """
    own = {name: largest(x) for name, x in (dict(cotangents) | named_leaves(gradients)).items()}
    terms = scales_of_vanishing(gradients) | _query_key_scales(config, params, intermediates, cotangents)
    tokens = cotangents["logits"][..., 0].size
    cancelled = max(1.0, 1 / tokens / own["logits"]) if own["logits"] else 1.0  # P and 1, over P - 1
    return {name: cancelled * max(size, terms.get(name, 0.0)) for name, size in own.items()}


def _query_key_scales(config: GPTConfig, params: Named, intermediates: Named, cotangents: Named) -> dict[str, float]:
    """The sizes of the terms at the queries and keys of each block, at their kernels and at their biases, by name."""
    scales = {}
    for i in range(0 if config.qk_norm else config.n_layers):  # a norm gives queries and keys unit size
        where = f"block_{i}/attention"
        x2 = np.square(_read_by_attention(config, intermediates, f"block_{i}")).reshape(-1, config.d_model)
        dy, attention = cotangents[where], params[f"block_{i}"]["attention"]
        for name, terms2 in _squared_terms(config, attention, intermediates, dy, where).items():
            size2 = np.maximum(terms2, np.square(cotangents[f"{where}/{name}"]))
            kernel2 = x2.T @ size2.reshape(len(x2), -1)
            for leaf, squares in (("", size2), ("/kernel", kernel2), ("/bias", size2.sum((0, 1)))):
                scales[f"{where}/{name}{leaf}"] = float(np.sqrt(squares.max()))
    return scales


def _read_by_attention(config: GPTConfig, intermediates: Named, block: str) -> np.ndarray:
    """The input of a block's attention: the result of its norm or, where that comes after, the residual stream."""
    normed = np.asarray(intermediates[f"{block}/norm_1"])
    return np.asarray(intermediates[f"{block}/residual_1"] - normed) if config.norm_place == "after" else normed


def _squared_terms(
    config: GPTConfig, params: Named, intermediates: Named, dy: np.ndarray, where: str
) -> dict[str, np.ndarray]:
    """The summed squares [B, T, D] of the terms of the gradients at queries and at keys.

    `dy` is the gradient at the result of the attention, `where` its name.
    """
    heads, groups = config.n_heads, config.kv_heads
    q2 = split_heads(np.square(intermediates[f"{where}/query"]), heads)
    k2, v2 = (
        repeat_heads(split_heads(np.square(intermediates[f"{where}/{x}"]), groups), heads) for x in ("key", "value")
    )
    p2 = np.square(intermediates[f"{where}/weights"])  # [B, H, T, S]
    d_heads2 = split_heads(np.square(dy @ params["output"]["kernel"].T), heads)
    d_weights2 = d_heads2 @ v2.swapaxes(-1, -2)
    scale2 = 1 / q2.shape[-1] if config.attention_scale is None else config.attention_scale**2
    d_scores2 = p2 * (d_weights2 + (p2 * d_weights2).sum(-1, keepdims=True)) * scale2
    d_keys2 = d_scores2.swapaxes(-1, -2) @ q2
    shared = d_keys2.reshape(d_keys2.shape[0], groups, heads // groups, *d_keys2.shape[2:]).sum(2)
    return {"query": merge_heads(d_scores2 @ k2), "key": merge_heads(shared)}
