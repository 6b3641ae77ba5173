"""Slips of a linear map: its bias, its kernel, its input, the dtype of its operands."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips.rounding import OPERANDS
from jaxllm.config_rules import rotated_width
from jaxllm.reference import layers
from jaxllm.reference.arrays import Array, Params, float64


def ours(piece: ForeignPiece) -> Array:
    """The map of the recorded input: [..., D] -> [..., F]."""
    return layers.linear_map(piece.params, piece.x)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of a map by itself, and of the maps that make queries and keys."""
    x, kernel, bias = float64(piece.x), float64(piece.params["kernel"]), piece.params.get("bias")
    yield from of_parameters(x, piece.params)
    for dtype, rounded in OPERANDS.items():
        yield Hypothesis(
            "operands", f"equals ours with input and weights rounded to {dtype}",
            partial(layers.linear, rounded(x), rounded(kernel), bias),
        )  # fmt: skip
    part = piece.name.rpartition("/")[2]
    if part in ("query", "key"):
        yield from _orders(layers.linear(x, kernel, bias), piece.config, part)


def of_parameters(x: Array, params: Params) -> Iterator[Hypothesis]:
    """Slips of kernel and bias."""
    kernel, bias = float64(params["kernel"]), params.get("bias")
    if kernel.shape[0] == kernel.shape[1]:
        yield Hypothesis(
            "transposed", "equals ours with the weight transposed", lambda: layers.linear(x, kernel.T, bias)
        )
    if bias is None:
        return
    bias = float64(bias)
    yield Hypothesis("no-bias", "equals ours without the bias", lambda: layers.linear(x, kernel))
    yield Hypothesis("bias-twice", "equals ours with the bias added twice", lambda: layers.linear(x, kernel, 2 * bias))
    yield Hypothesis("bias-sign", "equals ours with the bias subtracted", lambda: layers.linear(x, kernel, -bias))


def interleaved(n: int) -> Array:
    """The order that puts the features (i, i + n / 2) of the two halves beside each other: [n] indices."""
    return np.arange(n).reshape(2, n // 2).T.ravel()


def by_heads(order: Array, width: int) -> Array:
    """An order of the features of a head, for all heads of a width after each other."""
    k = len(order)
    return (np.arange(0, width, k)[:, None] + order).ravel()


def _orders(y: Array, config: Any, part: str) -> Iterator[Hypothesis]:
    """Features within each head in the order of the other form of rotary positions."""
    rotated = rotated_width(config.head_dim, config.rotary_fraction)
    if rotated % 2 or y.shape[-1] % config.head_dim:
        return
    of_head = np.concatenate([interleaved(rotated), np.arange(rotated, config.head_dim)])
    order = by_heads(of_head, y.shape[-1])
    yield Hypothesis(
        "feature-order", f"equals our {part} with each head's two halves interleaved", lambda: y[..., order]
    )
    yield Hypothesis(
        "feature-order", f"equals our {part} with each head's even and odd features in halves",
        lambda: y[..., np.argsort(order)],
    )  # fmt: skip
