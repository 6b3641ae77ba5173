"""Piece 18: clipping of gradients, and AdamW. The slips of AdamW are in `adamw_slips` and `adamw_direction_slips`."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.update_rules import Moments

from ..piece import Arguments, Function, Piece, Slip
from .adamw_direction_slips import DIRECTION_SLIPS
from .adamw_slips import DECAY_AND_MOMENT_SLIPS

Gradients = dict[str, Any]


def clip_gradients(gradients: Gradients, limit: float) -> Gradients:
    """The twin."""
    return dict(reference.optimizer.clip_by_global_norm(gradients, limit))


def adamw_update(
    parameter: Any, gradient: Any, m: Any, v: Any, step: int, learning_rate: float, beta1: float, beta2: float,
    epsilon: float, weight_decay: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """The twin for one parameter. The twin decays matrices alone, and here everything is decayed: so all are rows."""
    config = SimpleNamespace(beta1=beta1, beta2=beta2, weight_decay=weight_decay)
    p, g, mu, nu = ({"p": np.asarray(x)[None]} for x in (parameter, gradient, m, v))
    moments = Moments(step - 1, mu, nu)
    updates, after = reference.optimizer.adamw(config, g, moments, p, learning_rate, epsilon=epsilon)
    return (p["p"] + updates["p"])[0], after.mu["p"][0], after.nu["p"][0]


def _clip_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"gradients": {"a": np.array([3.0, 4.0])}, "limit": 1.0}
    yield {"gradients": {"a": np.array([0.3, 0.4])}, "limit": 1.0}
    yield {"gradients": {"a": np.array([3.0]), "b": np.array([4.0])}, "limit": 2.5}
    yield {"gradients": {"a": np.array([3.0]), "b": np.array([4.0, 0.0])}, "limit": 4.5}
    yield {"gradients": {"a": np.array([3.0, 4.0])}, "limit": 6.0}
    yield {"gradients": {"a": np.array([0.0, 0.0])}, "limit": 1.0}
    for limit in (0.7, 3.0, 100.0):
        shapes = {"bias": (3,), "kernel": (4, 3), "table": (5, 2, 2)}
        yield {"gradients": {name: rng.normal(size=shape) for name, shape in shapes.items()}, "limit": limit}


def _adamw_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    usual = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "weight_decay": 0.0}
    one, half, zero = np.array([1.0]), np.array([0.5]), np.array([0.0])
    start = {"parameter": one, "gradient": half, "m": zero, "v": zero, "step": 1}
    yield start | usual
    yield start | usual | {"weight_decay": 0.5}
    yield start | usual | {"gradient": zero, "weight_decay": 0.5}
    yield start | usual | {"step": 2, "m": np.array([0.2]), "v": np.array([0.04])}
    yield start | usual | {"step": 2, "m": np.array([0.2]), "v": np.array([0.04]), "epsilon": 0.1}
    for shape, step in (((3,), 1), ((4, 3), 2), ((2, 5), 10), ((3, 2, 4), 1000)):
        arrays = [rng.normal(size=shape) for _ in range(3)] + [rng.random(size=shape)]
        numbers = {"learning_rate": 0.02, "beta1": 0.8, "beta2": 0.95, "epsilon": 0.01, "weight_decay": 0.3}
        yield dict(zip(("parameter", "gradient", "m", "v"), arrays, strict=True)) | {"step": step} | numbers


def varied_clip(
    gradients: Gradients, limit: float, *, norm: str = "of all", when: str = "above", factor: str = "limit over norm"
) -> Gradients:
    """`clip_gradients` with the mistakes that the keywords choose."""
    if norm == "of elements":
        return {name: np.clip(g, -limit, limit) for name, g in gradients.items()}
    if norm == "of each":
        return {name: varied_clip({name: g}, limit, when=when, factor=factor)[name] for name, g in gradients.items()}
    flat = np.concatenate([np.ravel(g) for g in gradients.values()])
    size = {
        "of all": np.sqrt((flat**2).sum()),
        "squared": (flat**2).sum(),
        "absolute": np.abs(flat).sum(),
        "largest": np.abs(flat).max(),
        "root mean square": np.sqrt((flat**2).mean()),
        "sum of norms": sum(np.sqrt((g**2).sum()) for g in gradients.values()),
    }[norm]
    kept = {"above": size <= limit, "square above": size**2 <= limit, "below": size >= limit, "never": True}
    if kept.get(when, False):
        return dict(gradients)
    with np.errstate(all="ignore"):
        scale = {"limit over norm": limit / size, "one over norm": 1 / size, "norm over limit": size / limit}
        scale |= {"with epsilon": limit / (size + 1e-6), "zero": 0.0, "limit over square": limit / size**2}
        return {name: g * scale[factor] for name, g in gradients.items()}


CLIP_SLIPS = (
    Slip(
        "each-by-its-own-norm",
        "clips each array by its own norm",
        "The direction of the step then changes. One norm over all arrays keeps the gradients' proportions.",
        "How many norms are there for three arrays?",
        partial(varied_clip, norm="of each"),
    ),
    Slip(
        "element-by-element",
        "clips each number to the limit",
        "The direction of the step then changes, since only large numbers shrink. All numbers get the same factor.",
        "Do small numbers of a large gradient change?",
        partial(varied_clip, norm="of elements"),
    ),
    Slip(
        "small-gradients-raised",
        "scales gradients to the limit even if their norm is below it",
        "Small gradients at the end of training would be blown up. Below the limit nothing changes.",
        "What should happen if the norm is half the limit?",
        partial(varied_clip, when="always"),
    ),
    Slip(
        "square-compared-with-the-limit",
        "compares the square of the norm with the limit",
        "The factor has the norm itself, and so must the comparison. Above 1 a square is larger, below 1 smaller.",
        "Which two numbers does the condition compare?",
        partial(varied_clip, when="square above"),
    ),
    Slip(
        "only-small-ones-scaled",
        "scales gradients that are below the limit, and leaves those above it",
        "The comparison is the wrong way round. Clipping is for large gradients.",
        "Read the condition aloud.",
        partial(varied_clip, when="below"),
    ),
    Slip(
        "not-clipped",
        "equals the gradients as they were",
        "Gradients whose norm is above the limit must shrink. One bad batch could otherwise throw the model far away.",
        "Is the scaled result what you return?",
        partial(varied_clip, when="never"),
    ),
    Slip(
        "squared-norm",
        "uses the square of the norm",
        "The norm is the root of the sum of squares. Without the root the factor is too small or too large.",
        "What is the length of the vector (3, 4)?",
        partial(varied_clip, norm="squared"),
    ),
    Slip(
        "divided-by-the-square",
        "divides by the square of the norm",
        "The comparison has the norm, and the factor its square. The factor is the limit over the norm itself.",
        "If the norm is twice the limit, what should the factor be?",
        partial(varied_clip, factor="limit over square"),
    ),
    Slip(
        "sum-of-absolute-values",
        "uses the sum of absolute values as norm",
        "That is another norm, and larger. Here the length of the vector is meant, as in Pythagoras.",
        "What is the length of the vector (3, 4)?",
        partial(varied_clip, norm="absolute"),
    ),
    Slip(
        "largest-value",
        "uses the largest absolute value as norm",
        "That is another norm, and smaller. Here the length of the vector is meant, as in Pythagoras.",
        "What is the length of the vector (3, 4)?",
        partial(varied_clip, norm="largest"),
    ),
    Slip(
        "root-mean-square",
        "uses the root of the mean of squares as norm",
        "The mean divides by the number of parameters, which the norm does not. The limit would depend on the "
        "model's size.",
        "What is the length of the vector (3, 4)?",
        partial(varied_clip, norm="root mean square"),
    ),
    Slip(
        "sum-of-norms",
        "adds the norms of the arrays",
        "Norms add up like the sides of a right angle: the squares add. The sum of lengths is too large.",
        "What is the length of (3, 4), from the lengths 3 and 4?",
        partial(varied_clip, norm="sum of norms"),
    ),
    Slip(
        "scaled-to-one",
        "scales large gradients to the norm 1, not to the limit",
        "Dividing by the norm gives length 1. The clipped gradient has the length of the limit.",
        "Where does the limit come in, other than in the comparison?",
        partial(varied_clip, factor="one over norm"),
    ),
    Slip(
        "factor-inverted",
        "multiplies by the norm over the limit",
        "Large gradients become larger still. The factor must be below 1.",
        "Is your factor above or below 1?",
        partial(varied_clip, factor="norm over limit"),
    ),
    Slip(
        "epsilon-in-the-norm",
        "divides by the norm plus 1e-6",
        "PyTorch does this against a division by 0, so its result is a millionth shorter. A norm above the limit is "
        "never 0.",
        "Is there anything beside the norm in the denominator?",
        partial(varied_clip, factor="with epsilon"),
    ),
    Slip(
        "large-gradients-dropped",
        "sets gradients above the limit to 0",
        "The step would be lost, and with it what the batch could teach. Clipping keeps the direction.",
        "What should remain of a gradient that is too long?",
        partial(varied_clip, factor="zero"),
    ),
)

PIECE = Piece(
    "training_step",
    "Training step",
    "The gradient is kept from being too long, and AdamW moves each number by about the learning rate against it.",
    (
        Function("clip_gradients", clip_gradients, _clip_cases, CLIP_SLIPS),
        Function("adamw_update", adamw_update, _adamw_cases, DECAY_AND_MOMENT_SLIPS + DIRECTION_SLIPS),
    ),
)
