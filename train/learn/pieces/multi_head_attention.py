"""Piece 12: several attentions side by side, each on a part of the features."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array, Params, vjp
from jaxllm.reference.attention import merge_heads, split_heads

from ..piece import Arguments, Function, Piece
from .head_slips import MERGE_SLIPS, SPLIT_SLIPS
from .multi_head_slips import ATTENTION_SLIPS
from .random_trees import random_attention


def multi_head_attention(params: Params, x: Any, n_heads: int) -> Array:
    """The twin, causal."""
    return reference.multi_head.multi_head_attention(params, x, n_heads)


multi_head_attention_vjp = vjp(
    lambda params, x, n_heads: reference.multi_head.multi_head_attention_vjp(params, x, n_heads)
)


def _split_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[1.0, 2, 3, 4], [5, 6, 7, 8]]), "n_heads": 2}
    for *batch, t, h, k in ((3, 2, 4), (2, 4, 3, 5), (3, 2, 5, 4, 6)):
        yield {"x": rng.normal(size=(*batch, t, h * k)), "n_heads": h}


def _merge_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([[[1.0, 2], [5, 6]], [[3, 4], [7, 8]]])}
    for *batch, t, h, k in ((3, 2, 4), (2, 4, 3, 5), (3, 2, 5, 4, 6)):
        yield {"x": rng.normal(size=(*batch, h, t, k))}


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    names = ("query", "key", "value", "output")
    params = {name: {"kernel": np.eye(4), "bias": np.zeros(4)} for name in names}
    yield {"params": params, "x": np.array([[1.0, 0, 0, 1], [0, 2, 1, 1]]), "n_heads": 2}
    large = {name: {"kernel": np.eye(2), "bias": np.zeros(2)} for name in names}
    yield {"params": large, "x": np.array([[40.0, 0], [50, 40]]), "n_heads": 1}
    for *batch, t, h, k in ((3, 2, 4), (2, 5, 3, 4), (4, 3, 2, 5), (2, 3, 4, 3, 5)):
        params = random_attention(rng, h * k)
        yield {"params": params, "x": rng.normal(size=(*batch, t, h * k)), "n_heads": h}


PIECE = Piece(
    "multi_head_attention",
    "Multi-head attention",
    "Several heads attend side by side, each with its own part of the queries, keys and values.",
    (
        Function("split_heads", split_heads, _split_cases, SPLIT_SLIPS, reference.attention.split_heads_vjp, "H T K"),
        Function("merge_heads", merge_heads, _merge_cases, MERGE_SLIPS, reference.attention.merge_heads_vjp, "T D"),
        Function(
            "multi_head_attention", multi_head_attention, _cases, ATTENTION_SLIPS, multi_head_attention_vjp, "T D"
        ),
    ),
)
