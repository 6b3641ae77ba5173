"""Slips of a norm: its epsilon, its variance, its kind, its scale and bias."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference import layers
from jaxllm.reference.arrays import Array, float64

EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
KINDS = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}


def kind_of(piece: ForeignPiece) -> Any:
    """The name of the norm, or a user's own."""
    return piece.extra.get("norm", piece.config.norm)


def ours(piece: ForeignPiece) -> Array:
    """The norm of the recorded input, [..., D]."""
    return layers.norm(piece.params, piece.x, kind_of(piece), piece.config.norm_epsilon)


def normalised(
    x: Any, kind: str, epsilon: float, axis: Any = -1, less: int = 0, outside: bool = False, root: bool = True
) -> Array:
    """x normalised, before its scale: over other axes, with the sum of squares divided by D - `less`, with epsilon
    outside the root, or without the root."""
    x = float64(x)
    centred = x - x.mean(axis=axis, keepdims=True) if kind == "layer_norm" else x
    numbers = x.shape[-1] / (x.shape[-1] - less) if less else 1.0
    variance = (centred**2).mean(axis=axis, keepdims=True) * numbers
    if outside:
        return centred / (np.sqrt(variance) + epsilon)
    return centred / (np.sqrt(variance + epsilon) if root else variance + epsilon)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips of a norm of a known kind."""
    kind = kind_of(piece)
    if kind not in KINDS:
        return
    x, epsilon, scale, bias = piece.x, piece.config.norm_epsilon, piece.params["scale"], piece.params.get("bias")

    def out(z: Array, scale: Any = scale, bias: Any = bias) -> Array:
        return z * float64(scale) + (0.0 if bias is None else float64(bias))

    def changed(slip: str, says: str, **changes: Any) -> Hypothesis:
        arguments = {"kind": kind, "epsilon": epsilon} | changes
        return Hypothesis(slip, f"equals ours {says}", lambda: out(normalised(x, **arguments)))

    yield from _epsilons(piece, lambda e, outside: out(normalised(x, kind, e, outside=outside)))
    other = "rms_norm" if kind == "layer_norm" else "layer_norm"
    yield changed("norm-kind", f"with {KINDS[other]} in place of {KINDS[kind]}", kind=other)
    if np.shape(x)[-1] > 1:
        yield changed("unbiased-variance", "with the mean square divided by D - 1, not D", less=1)
        yield changed(
            "unbiased-variance", "with the variance divided by D - 1 and epsilon outside the root", less=1, outside=True
        )
    yield changed("no-root", "without the square root", root=False)
    z = normalised(x, kind, epsilon)
    yield from _affine(z, scale, bias, out)
    yield from _axes(x, changed)


def _epsilons(piece: ForeignPiece, predict: Callable[[float, bool], Array]) -> Iterator[OneNumber]:
    is_ours = f"ours is {piece.config.norm_epsilon:g}"
    yield OneNumber("epsilon", f"fits epsilon = {{value}}; {is_ours}", lambda e: predict(e, False), EPSILONS, 0.0, 1e-8)
    yield OneNumber(
        "epsilon-outside-the-root", f"fits epsilon = {{value}} added after the root; {is_ours}, inside it",
        lambda e: predict(e, True), EPSILONS, 0.0, 1e-8, may_vanish=False,
    )  # fmt: skip


def _affine(z: Array, scale: Any, bias: Any, out: Callable[..., Array]) -> Iterator[Hypothesis]:
    """Slips of scale and bias."""
    yield Hypothesis("scale-offset", "equals ours with 1 + scale for scale", lambda: out(z, 1 + float64(scale)))
    yield Hypothesis("scale-offset", "equals ours with scale - 1 for scale", lambda: out(z, float64(scale) - 1))
    yield Hypothesis("no-scale", "equals ours without the scale", lambda: out(z, 1.0))
    if bias is None:
        return
    yield Hypothesis("no-bias", "equals ours without the bias", lambda: out(z, bias=None))
    yield Hypothesis("no-affine", "equals ours without scale and bias", lambda: z)
    yield Hypothesis("bias-twice", "equals ours with the bias added twice", lambda: out(z, bias=2 * float64(bias)))
    yield Hypothesis("affine-swapped", "equals ours with scale and bias exchanged", lambda: out(z, bias, scale))


def _axes(x: Any, changed: Callable[..., Hypothesis]) -> Iterator[Hypothesis]:
    """Slips of the axes over which is normalised."""
    x = np.asarray(x)
    if x.ndim < 2:
        return
    yield changed("norm-axes", "normalised over the positions, not the features", axis=-2)
    yield changed("norm-axes", "normalised over positions and features together", axis=(-2, -1))
    if x.ndim > 2:
        yield changed("norm-axes", "normalised over the batch, not the features", axis=0)
        yield changed("norm-axes", "normalised over batch and positions, not the features", axis=(0, 1))
