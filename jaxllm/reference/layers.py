"""Twins of `jaxllm.layers`, in float64."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Params = Mapping[str, Any]

EPSILON = 1e-5


def float64(x: ArrayLike) -> Array:
    """`x` as a float64 array."""
    return np.asarray(x, np.float64)


def linear(x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y_f = sum_d x_d W_df + b_f."""
    y = float64(x) @ float64(kernel)
    return y if bias is None else y + float64(bias)


def layer_norm(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias."""
    x = float64(x)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    y = (x - mean) / np.sqrt(variance + epsilon) * float64(scale)
    return y if bias is None else y + float64(bias)


def rms_norm(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * scale + bias."""
    x = float64(x)
    y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * float64(scale)
    return y if bias is None else y + float64(bias)


def gelu_tanh(x: ArrayLike) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    x = float64(x)
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: ArrayLike) -> Array:
    """x Phi(x), Phi(x) = (1 + erf(x / sqrt(2))) / 2. NumPy has no erf, so the standard library's is mapped."""
    x = float64(x)
    return x / 2 * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))


def relu(x: ArrayLike) -> Array:
    """max(x, 0)."""
    return np.maximum(float64(x), 0)


def softmax(x: ArrayLike) -> Array:
    """exp(x) / sum exp(x); the maximum is taken off first, which changes nothing but the range."""
    x = float64(x)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def dropout(x: ArrayLike, keep: ArrayLike) -> Array:
    """x times the mask."""
    return float64(x) * float64(keep)


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu": gelu, "relu": relu}
NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


def norm(params: Params, x: ArrayLike, kind: str = "layer_norm") -> Array:
    """Twin of the module `Norm`."""
    return NORMS[kind](x, params["scale"], params.get("bias"))


def mlp(params: Params, x: ArrayLike, activation: str = "gelu_tanh") -> Array:
    """Twin of the module `MLP`."""
    return linear(ACTIVATIONS[activation](linear(x, **params["up"])), **params["down"])
