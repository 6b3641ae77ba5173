"""Piece 14: GELU, and two linear maps with it in between."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm import reference
from jaxllm.reference.arrays import Array, Params, vjp
from jaxllm.reference.layers import gelu_tanh, linear

from ..piece import Arguments, Function, Piece, Slip
from .hooks import after
from .random_trees import random_mlp

ROOT = math.sqrt(2 / math.pi)


def gelu(x: Any) -> Array:
    """GELU in its form with tanh."""
    return gelu_tanh(x)


def mlp(params: Params, x: Any) -> Array:
    """down(gelu(up(x)))."""
    return reference.layers.mlp(params, x)


mlp_vjp = vjp(lambda params, x: reference.layers.mlp_vjp(params, x))


def _gelu_cases(rng: np.random.Generator) -> Iterator[Arguments]:
    yield {"x": np.array([0.0, 1, -1, 2])}
    yield {"x": np.array([[1000.0, -1000], [3, -3]])}
    for shape in ((3, 5), (2, 4, 3)):
        yield {"x": 2 * rng.normal(size=shape)}


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    up = {"kernel": np.array([[1.0, -1], [0, 2]]), "bias": np.array([0.0, 1])}
    down = {"kernel": np.array([[1.0, 0], [1, -1]]), "bias": np.array([0.5, -2])}
    yield {"params": {"up": up, "down": down}, "x": np.array([[1.0, 1]])}
    for *batch, d, f in ((2, 3, 5), (4, 3, 2), (2, 3, 4, 6), (3, 2, 4, 5, 7)):
        yield {"params": random_mlp(rng, d, f), "x": 2 * rng.normal(size=(*batch, d))}


def _inner(x: Array) -> Array:
    return ROOT * (x + 0.044715 * x**3)


def _quotient(u: Array) -> Array:
    """tanh of numbers that are not large: inf / inf where they are."""
    with np.errstate(all="ignore"):
        return (np.exp(u) - np.exp(-u)) / (np.exp(u) + np.exp(-u))


def _varied_gelu(
    x: Array, *, inner: Callable[[Array], Array] = _inner, tanh: Callable[[Array], Array] = np.tanh, one: int = 1,
    half: float = 0.5,
) -> Array:  # fmt: skip
    """GELU with one of its parts changed."""
    return half * x * (one + tanh(inner(x)))


def _by_sigmoid(factor: float) -> Callable[[Array], Array]:
    return lambda x: x * (1 + np.tanh(factor * x / 2)) / 2


_GELU_SLIPS = (
    Slip(
        "exact",
        "equals GELU with the error function, not its approximation by tanh",
        "Both are in use and differ by less than 0.0005. GPT-2 was trained with the one by tanh.",
        "Read once more which of the two forms is asked for.",
        reference.layers.gelu,
    ),
    Slip(
        "sigmoid",
        "equals x sigmoid(1.702 x), the other approximation of GELU",
        "It is off by up to 0.02. GPT-2 was trained with the approximation by tanh.",
        "Read once more which of the two forms is asked for.",
        _by_sigmoid(1.702),
    ),
    Slip(
        "silu",
        "equals SiLU, x sigmoid(x)",
        "That is the activation of Llama. GELU lies nearer to 0 for negative numbers.",
        "Compare the result for x = 1 with the worked example.",
        _by_sigmoid(1),
    ),
    Slip(
        "relu",
        "equals ReLU",
        "It is 0 for all negative numbers. GELU is smooth, so small negative numbers still have a gradient.",
        "Compare the result for x = -1 with the worked example.",
        reference.layers.relu,
    ),
    Slip(
        "no-cube",
        "equals GELU without the term 0.044715 x^3",
        "The term corrects tanh for larger numbers. Without it the result is off by up to 0.02.",
        "Count the terms inside the tanh.",
        partial(_varied_gelu, inner=lambda x: ROOT * x),
    ),
    Slip(
        "square-for-cube",
        "equals GELU with 0.044715 x^2 in place of 0.044715 x^3",
        "A square is positive on both sides of 0. The curve inside the tanh must be odd.",
        "Look at the power.",
        partial(_varied_gelu, inner=lambda x: ROOT * (x + 0.044715 * x**2)),
    ),
    Slip(
        "cube-not-scaled",
        "equals GELU where sqrt(2/pi) multiplies x only, not the cube",
        "The factor belongs to the sum of both terms. With the cube unscaled, the curve bends too early.",
        "Look at the parentheses inside the tanh.",
        partial(_varied_gelu, inner=lambda x: ROOT * x + 0.044715 * x**3),
    ),
    Slip(
        "no-root",
        "equals GELU with 2/pi in place of sqrt(2/pi)",
        "The curve is flatter around 0 than it should be. Large numbers are hardly affected, numbers near 1 are.",
        "Look at the factor inside the tanh.",
        partial(_varied_gelu, inner=lambda x: 2 / math.pi * (x + 0.044715 * x**3)),
    ),
    Slip(
        "no-factor",
        "equals GELU without the factor sqrt(2/pi)",
        "The curve is steeper around 0 than it should be. Large numbers are hardly affected, numbers near 1 are.",
        "Look at the factor inside the tanh.",
        partial(_varied_gelu, inner=lambda x: x + 0.044715 * x**3),
    ),
    Slip(
        "no-one-plus",
        "equals x/2 tanh(...), without the 1 that is added to the tanh",
        "tanh lies between -1 and 1, and 1 + tanh between 0 and 2. Without the 1 negative numbers become positive.",
        "Look at the sign of the result for x = -1.",
        partial(_varied_gelu, one=0),
    ),
    Slip(
        "no-half",
        "equals twice GELU: the half is missing",
        "1 + tanh lies between 0 and 2. For large x the result should be x.",
        "Look at the result for a large x.",
        partial(_varied_gelu, half=1),
    ),
    Slip(
        "overflowing-tanh",
        "equals GELU with a tanh made of exponentials that overflow",
        "(e^u - e^-u) / (e^u + e^-u) is inf / inf = NaN for large u. The tanh of the library does not overflow.",
        "Look at the result for x = 1000.",
        partial(_varied_gelu, tanh=_quotient),
    ),
)


def _varied_mlp(
    params: Params, x: Array, *, activation: Callable[[Array], Array] = gelu_tanh, first: bool = False,
    between: bool = True, last: bool = False, up_bias: bool = True, down_bias: bool = True, bias_late: bool = False,
) -> Array:  # fmt: skip
    """The MLP with another activation, in other places (first, between the maps, last), or other biases."""
    up, down = params["up"], params["down"]
    x = activation(x) if first else x
    hidden = linear(x, up["kernel"], up["bias"] if up_bias and not bias_late else None)
    hidden = activation(hidden) if between else hidden
    hidden = hidden + up["bias"] if bias_late else hidden
    out = linear(hidden, down["kernel"], down["bias"] if down_bias else None)
    return activation(out) if last else out


_BETWEEN = "Look at the order of the two maps and the activation."
_BIAS = "A linear map adds its bias. Biases are often 0 at first, so this goes unnoticed until they are trained."
_MLP_SLIPS = (
    Slip(
        "no-activation",
        "equals the MLP without an activation",
        "Two linear maps after each other are one linear map. Nothing is gained by the second.",
        _BETWEEN,
        partial(_varied_mlp, between=False),
    ),
    Slip(
        "activation-after-down",
        "equals the MLP with the activation after the second map, not between the maps",
        "The two maps together are one linear map, and what is added to the residual stream can hardly be negative. "
        "Most of what the hidden layer could compute is lost.",
        _BETWEEN,
        partial(_varied_mlp, between=False, last=True),
    ),
    Slip(
        "activation-before-up",
        "equals the MLP with the activation before the first map, not between the maps",
        "The two maps together are one linear map. Most of what the hidden layer could compute is lost.",
        _BETWEEN,
        partial(_varied_mlp, between=False, first=True),
    ),
    Slip(
        "activation-twice",
        "equals the MLP with a second activation after the second map",
        "What is added to the residual stream can then hardly be negative. The result of the second map is used as it "
        "is.",
        _BETWEEN,
        partial(_varied_mlp, last=True),
    ),
    Slip(
        "relu",
        "equals the MLP with ReLU in place of GELU",
        "ReLU has no gradient for negative numbers. GPT-2 was trained with GELU.",
        "Look at which activation you use.",
        partial(_varied_mlp, activation=reference.layers.relu),
    ),
    Slip(
        "exact-gelu",
        "equals the MLP with the exact GELU, not its approximation by tanh",
        "Both are in use and differ by less than 0.0005. GPT-2 was trained with the one by tanh.",
        "Use the gelu of this file, once it is right.",
        partial(_varied_mlp, activation=reference.layers.gelu),
    ),
    Slip(
        "no-biases",
        "equals the MLP without biases",
        _BIAS,
        "Look at what each entry of `params` holds.",
        partial(_varied_mlp, up_bias=False, down_bias=False),
    ),
    Slip(
        "no-up-bias",
        "equals the MLP without the bias of the first map",
        _BIAS,
        "Look at what `params['up']` holds.",
        partial(_varied_mlp, up_bias=False),
    ),
    Slip(
        "no-down-bias",
        "equals the MLP without the bias of the second map",
        _BIAS,
        "Look at what `params['down']` holds.",
        partial(_varied_mlp, down_bias=False),
    ),
    Slip(
        "bias-after-activation",
        "equals the MLP with the first bias added after the activation",
        "The bias decides where the activation bends. Added later, it only shifts the result.",
        "Look at what the activation is applied to.",
        partial(_varied_mlp, bias_late=True),
    ),
    Slip(
        "residual",
        "equals x plus the MLP",
        "Adding the input is the work of the block, which is the next piece. If both add it, x counts twice.",
        "Look at what is added at the end.",
        **after(mlp, lambda result, given: given["x"] + result),
    ),
)

PIECE = Piece(
    "mlp",
    "GELU and the MLP",
    "Each word is mapped to a wider hidden layer, through a smooth activation, and back.",
    (
        Function("gelu", gelu, _gelu_cases, _GELU_SLIPS, reference.layers.gelu_tanh_vjp, "T F"),
        Function("mlp", mlp, _cases, _MLP_SLIPS, mlp_vjp, "T D"),
    ),
)
