"""Slips of the first step of AdamW, Adam and SGD: dicts of parameters before and after, and of gradients, by name."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis, OneNumber
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference.arrays import Array, float64
from jaxllm.reference.optimizer import clip_by_global_norm

EPSILONS = (0.0, 1e-15, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3)


@dataclass(frozen=True)
class _Step:
    """How the first step is taken; `of` reads it from a piece."""

    rule: str
    learning_rate: float
    betas: tuple[float, float]
    epsilon: float
    weight_decay: float
    clip_norm: float | None
    decayed: frozenset[str] | None  # None: all
    decoupled: bool  # whether the decay passes the moments by
    corrected: tuple[bool, bool] = (True, True)  # whether each moment's beginning at 0 is corrected
    inside: bool = False  # whether epsilon is inside the root
    decay_last: bool = False  # whether parameters decay after the update
    uphill: bool = False

    @classmethod
    def of(cls, piece: ForeignPiece) -> "_Step":
        """PyTorch's AdamW, Adam or SGD with the numbers of `extra`."""
        extra = piece.extra
        decayed = extra.get("decayed")
        return cls(
            extra["rule"], extra["learning_rate"], tuple(extra.get("betas", (0.9, 0.999))),
            extra.get("epsilon", 1e-8), extra.get("weight_decay", 0.0), extra.get("clip_norm"),
            None if decayed is None else frozenset(decayed), extra["rule"] == "adamw",
        )  # fmt: skip


def ours(piece: ForeignPiece) -> dict[str, Array]:
    """The parameters after the step, by name."""
    return _after(piece, _Step.of(piece))


def _after(piece: ForeignPiece, how: _Step) -> dict[str, Array]:
    gradients = {name: float64(g) for name, g in piece.x.items()}
    if how.clip_norm is not None:
        gradients = clip_by_global_norm(gradients, how.clip_norm)
    return {name: _moved(float64(piece.params[name]), g, name, how) for name, g in gradients.items()}


def _moved(p: Array, g: Array, name: str, how: _Step) -> Array:
    """One parameter after the step."""
    decay = how.weight_decay if how.decayed is None or name in how.decayed else 0.0
    g = g if how.decoupled else g + decay * p
    direction = -_direction(g, how) if how.uphill else _direction(g, how)
    if not how.decoupled:
        return p - how.learning_rate * direction
    shrink = decay * how.learning_rate
    if how.decay_last:
        return (p - how.learning_rate * direction) * (1 - shrink)
    return p - shrink * p - how.learning_rate * direction


def _direction(g: Array, how: _Step) -> Array:
    """What the first step subtracts, before the learning rate."""
    if how.rule == "sgd":
        return g
    (b1, b2), (first, second) = how.betas, how.corrected
    mean = g if first else (1 - b1) * g
    square = g**2 if second else (1 - b2) * g**2
    return mean / (np.sqrt(square + how.epsilon) if how.inside else np.sqrt(square) + how.epsilon)


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis | OneNumber]:
    """The slips that a first step shows. It does not show the betas: with their correction they cancel."""
    how = _Step.of(piece)
    for slip, says, changed in (*_decays(how), *_moments(how), *_others(how)):
        yield Hypothesis(slip, f"equals ours {says}", partial(_after, piece, changed))
    yield OneNumber(
        "learning-rate", f"fits a learning rate of {{value}}; ours is {how.learning_rate:g}",
        lambda rate: _after(piece, replace(how, learning_rate=rate)), (how.learning_rate,), 0.0, how.learning_rate,
        may_vanish=False,
    )  # fmt: skip
    if how.rule != "sgd":
        yield OneNumber(
            "epsilon", f"fits epsilon = {{value}}; ours is {how.epsilon:g}",
            lambda e: _after(piece, replace(how, epsilon=e)), EPSILONS, 0.0, 1e-12,
        )  # fmt: skip
    yield OneNumber(
        "weight-decay", f"fits a weight decay of {{value}}; ours is {how.weight_decay:g}",
        lambda decay: _after(piece, replace(how, weight_decay=decay)), (0.0, how.weight_decay, 0.01, 0.1),
        smallest=1e-4, names=_decay_names(how),
    )  # fmt: skip


def _decay_names(how: _Step) -> dict[str, float]:
    """The weight decays that have a meaning beside ours."""
    if not how.weight_decay:
        return {}
    return {
        "ours with the other sign": -how.weight_decay,
        "ours / the learning rate, which does not multiply it there": how.weight_decay / how.learning_rate,
    }


def _decays(how: _Step) -> Iterator[tuple[str, str, _Step]]:
    if not how.weight_decay:
        return
    if how.decoupled:
        yield "decay-coupled", "with the decay added to the gradient", replace(how, decoupled=False)
        yield "decay-last", "with the decay after the update", replace(how, decay_last=True)
    else:
        yield "decay-coupled", "with the decay apart from the gradient", replace(how, decoupled=True)
    if how.decayed is not None:
        yield "decayed", "with the decay of all parameters", replace(how, decayed=None)


def _moments(how: _Step) -> Iterator[tuple[str, str, _Step]]:
    if how.rule == "sgd":
        return
    forms = {"the moments": (False, False), "the first moment": (False, True), "the second moment": (True, False)}
    for which, corrected in forms.items():
        yield "no-bias-correction", f"without the correction of {which}", replace(how, corrected=corrected)
    yield "epsilon-in-the-root", "with epsilon inside the root", replace(how, inside=True)
    yield "no-moments", "with the gradient itself as direction", replace(how, rule="sgd")


def _others(how: _Step) -> Iterator[tuple[str, str, _Step]]:
    yield "uphill", "with the update added, not subtracted", replace(how, uphill=True)
    yield "no-step", "without the update", replace(how, learning_rate=0.0)
    if how.clip_norm is not None:
        yield "not-clipped", f"without clipping to {how.clip_norm:g}", replace(how, clip_norm=None)
    else:
        for limit in (0.1, 0.5, 1.0, 5.0):
            yield "clipped", f"with gradients clipped to {limit:g}", replace(how, clip_norm=limit)
    if how.rule == "sgd":
        sign = replace(how, rule="adam", epsilon=0.0)
        yield "sign", "with the sign of the gradient as direction", sign
