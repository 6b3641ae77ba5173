"""Piece 10: softmax(q k^T / sqrt(K)) v, where a mask allows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxllm import reference

from ..piece import Arguments, Function, Piece, Slip


def scaled_dot_product_attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    """The twin."""
    return reference.attention.scaled_dot_product_attention(q, k, v, mask)


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    q, k = np.array([[2.0, 0, 0, 0]]), np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])
    yield {"q": q, "k": k, "v": np.array([[10.0, 0], [0, 20]]), "mask": None}
    for t, s, d, w in ((2, 3, 5, 2), (4, 4, 3, 5)):
        q, k, v = (rng.normal(size=shape) for shape in ((t, d), (s, d), (s, w)))
        yield {"q": q, "k": k, "v": v, "mask": None}
        yield {"q": q, "k": k, "v": v, "mask": (rng.random((t, s)) < 0.6) | (np.arange(s) == 0)}


def _no_scale(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    return scaled_dot_product_attention(np.asarray(q) * np.shape(q)[-1] ** 0.5, k, v, mask)


PIECE = Piece(
    "scaled_dot_product",
    "Scaled dot-product attention",
    "Scores are divided by sqrt(K), so that softmax does not saturate as heads get wider.",
    (
        Function(
            "scaled_dot_product_attention",
            scaled_dot_product_attention,
            _cases,
            (
                Slip(
                    "no-scale",
                    "equals attention without the division by sqrt(K)",
                    "Scores grow with the width K of queries and keys. Softmax of large scores picks one position, and "
                    "its gradient vanishes.",
                    "Look at what happens between the scores and the softmax.",
                    _no_scale,
                ),
            ),
            vjp=reference.attention.scaled_dot_product_attention_vjp,
            axes="T V",
        ),
    ),
)
