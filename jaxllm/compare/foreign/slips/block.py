"""Slips of a block: how norms, attention, MLP and residuals are wired."""

from collections.abc import Iterator
from typing import Any

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.compare.foreign.slips import attention
from jaxllm.reference import gpt, layers
from jaxllm.reference.arrays import Array, float64


def ours(piece: ForeignPiece) -> Array:
    """The block of the recorded input: [B, T, D] -> [B, T, D]."""
    return gpt.block(piece.config, piece.params, float64(piece.x))


class _Parts:
    """The functions of a block, [..., T, D] -> [..., T, D] each."""

    def __init__(self, piece: ForeignPiece) -> None:
        self.piece = piece

    def norm(self, number: int, x: Array) -> Array:
        config = self.piece.config
        return layers.norm(self.piece.params[f"norm_{number}"], x, config.norm, config.norm_epsilon)

    def attention(self, x: Array) -> Array:
        piece = self.piece
        return attention.ours(ForeignPiece("attention", piece.name, piece.config, piece.params["attention"], x, x))

    def mlp(self, x: Array) -> Array:
        return layers.mlp(self.piece.params["mlp"], x, self.piece.config.activation)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of the wiring; those of the parts are found in the parts."""
    x, of = float64(piece.x), _Parts(piece)
    attended = of.attention(of.norm(1, x))
    middle = x + attended
    yield from _residuals(x, attended, of)
    yield from _norms(x, of)
    for name, says, result in (
        ("parallel", "with attention and MLP in parallel, each from its own norm of the input",
         lambda: middle + of.mlp(of.norm(2, x))),
        ("parallel", "with attention and MLP in parallel, both from the first norm",
         lambda: middle + of.mlp(of.norm(1, x))),
        ("no-attention", "without the attention", lambda: x + of.mlp(of.norm(2, x))),
        ("no-mlp", "without the MLP", lambda: middle),
    ):  # fmt: skip
        yield Hypothesis(name, f"equals ours {says}", result)
    yield OneNumber(
        "residual-scale", "fits attention and MLP times {value} where they are added",
        lambda c: _added(x + c * attended, of, c), (0.5, 1.0, 2.0), may_vanish=False,
    )  # fmt: skip


def _added(x: Array, of: _Parts, scale: float = 1.0) -> Array:
    return x + scale * of.mlp(of.norm(2, x))


def _residuals(x: Array, attended: Array, of: _Parts) -> Iterator[Hypothesis]:
    """Slips of what is added to what."""
    middle = x + attended
    normed = of.norm(1, x)
    for says, result in (
        ("without the residual around the attention", lambda: _added(attended, of)),
        ("without the residual around the MLP", lambda: of.mlp(of.norm(2, middle))),
        ("without both residuals", lambda: of.mlp(of.norm(2, attended))),
        ("with the first norm's result as residual", lambda: _added(normed + attended, of)),
        ("with the second norm's result as residual", lambda: of.norm(2, middle) + of.mlp(of.norm(2, middle))),
        ("with both norms' results as residuals", lambda: _of_normed(normed + attended, of)),
        ("with the block's input as the MLP's residual", lambda: x + of.mlp(of.norm(2, middle))),
    ):
        yield Hypothesis("residual", f"equals ours {says}", result)


def _of_normed(middle: Array, of: _Parts) -> Array:
    return of.norm(2, middle) + of.mlp(of.norm(2, middle))


def _norms(x: Array, of: _Parts) -> Iterator[Hypothesis]:
    """Slips of the place of the norms."""

    def wired(first: Any, second: Any) -> Array:
        middle = x + of.attention(first(x))
        return middle + of.mlp(second(middle))

    def after(x: Array) -> Array:
        middle = of.norm(1, x + of.attention(x))
        return of.norm(2, middle + of.mlp(middle))

    def on_branches(x: Array) -> Array:
        middle = x + of.norm(1, of.attention(x))
        return middle + of.norm(2, of.mlp(middle))

    def one(y: Array) -> Array:
        return of.norm(1, y)

    def two(y: Array) -> Array:
        return of.norm(2, y)

    def none(y: Array) -> Array:
        return y

    yield Hypothesis("norm-place", "equals ours with the norms after the residual sums", lambda: after(x))
    yield Hypothesis(
        "norm-place", "equals ours with the norms of attention's and MLP's results", lambda: on_branches(x)
    )
    yield Hypothesis("no-norm", "equals ours without the first norm", lambda: wired(none, two))
    yield Hypothesis("no-norm", "equals ours without the second norm", lambda: wired(one, none))
    yield Hypothesis("no-norm", "equals ours without both norms", lambda: wired(none, none))
    yield Hypothesis("norms-exchanged", "equals ours with the two norms exchanged", lambda: wired(two, one))
    yield Hypothesis("norms-exchanged", "equals ours with the first norm in both places", lambda: wired(one, one))
    yield Hypothesis("norms-exchanged", "equals ours with the second norm in both places", lambda: wired(two, two))
