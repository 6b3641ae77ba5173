"""Slips of an MLP: its activation, its gate, its biases."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from jaxllm.compare.foreign.hypotheses import Hypothesis
from jaxllm.compare.foreign.piece import ForeignPiece
from jaxllm.reference import layers
from jaxllm.reference.arrays import Array, Params, float64


def ours(piece: ForeignPiece) -> Array:
    """The MLP of the recorded input: [..., D] -> [..., D]."""
    return layers.mlp(piece.params, piece.x, piece.config.activation)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return (1 + np.tanh(x / 2)) / 2


def quick_gelu(x: Array) -> Array:
    """x sigmoid(1.702 x), the approximation of Hendrycks and Gimpel 2016 that CLIP uses."""
    return x * sigmoid(1.702 * x)


# By their names in sentences.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "the tanh form of GELU": layers.gelu_tanh, "the exact GELU": layers.gelu,
    "the sigmoid form of GELU (quick_gelu)": quick_gelu, "ReLU": layers.relu, "squared ReLU": layers.squared_relu,
    "SiLU": layers.silu, "the sigmoid": sigmoid, "tanh": np.tanh, "no activation": lambda x: x,
}  # fmt: skip
OURS = {
    "gelu_tanh": "the tanh form of GELU", "gelu": "the exact GELU", "relu": "ReLU", "squared_relu": "squared ReLU",
    "swiglu": "SiLU", "geglu": "the tanh form of GELU",
}  # fmt: skip


def hypotheses(piece: ForeignPiece) -> Iterator[Hypothesis]:
    """The slips of an MLP with one of our activations."""
    if piece.config.activation not in OURS:
        return
    x, params = float64(piece.x), piece.params
    own_name = OURS[piece.config.activation]
    for name, activation in ACTIVATIONS.items():
        if name == own_name:
            continue
        yield Hypothesis(
            "activation", f"equals ours with {name} in place of {own_name}",
            partial(_mlp, params, x, activation),
        )  # fmt: skip
    own = ACTIVATIONS[own_name]
    yield from _biases(params, x, own)
    if "gate" in params:
        yield from _gates(params, x, own)
    if x.shape == np.shape(piece.got):
        yield Hypothesis("residual", "equals ours plus its input", lambda: _mlp(params, x, own) + x)
    yield from _transposed(params, x, own)


def _mlp(params: Params, x: Array, activation: Callable[[Array], Array]) -> Array:
    """down(activation(up(x))), or down(activation(gate(x)) up(x))."""
    up = layers.linear_map(params["up"], x)
    hidden = activation(layers.linear_map(params["gate"], x)) * up if "gate" in params else activation(up)
    return layers.linear_map(params["down"], hidden)


def without_bias(params: Params, *names: str) -> dict[str, Any]:
    """The parameters without the biases of the maps `names`."""
    return {
        name: {"kernel": part["kernel"]} if name in names and "kernel" in part else part
        for name, part in params.items()
    }


def _biases(params: Params, x: Array, activation: Callable[[Array], Array]) -> Iterator[Hypothesis]:
    with_bias = [name for name in ("gate", "up", "down") if "bias" in params.get(name, {})]
    sets = [(name,) for name in with_bias] + ([tuple(with_bias)] if len(with_bias) > 1 else [])
    for names in sets:
        yield Hypothesis(
            "no-bias", f"equals ours without the bias of {' and '.join(names)}",
            partial(_mlp, without_bias(params, *names), x, activation),
        )  # fmt: skip


def _gates(params: Params, x: Array, activation: Callable[[Array], Array]) -> Iterator[Hypothesis]:
    """Slips of a gated MLP."""
    exchanged = {**params, "gate": params["up"], "up": params["gate"]}
    yield Hypothesis("gate-and-up", "equals ours with gate and up exchanged", lambda: _mlp(exchanged, x, activation))
    no_gate = {name: params[name] for name in ("up", "down")}
    yield Hypothesis("no-gate", "equals ours without the gate", lambda: _mlp(no_gate, x, activation))
    no_up = {"up": params["gate"], "down": params["down"]}
    yield Hypothesis("no-up", "equals ours without the up map", lambda: _mlp(no_up, x, activation))


def _transposed(params: Params, x: Array, activation: Callable[[Array], Array]) -> Iterator[Hypothesis]:
    for name in params:
        kernel = np.asarray(params[name]["kernel"])
        if kernel.shape[0] == kernel.shape[1]:
            changed = {**params, name: {**params[name], "kernel": kernel.T}}
            yield Hypothesis(
                "transposed", f"equals ours with the weight of {name} transposed",
                partial(_mlp, changed, x, activation),
            )  # fmt: skip
