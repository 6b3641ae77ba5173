"""The layers of a GPT: linear maps, norms, activations, softmax, dropout and the MLP.

Each function f has its backward beside it, `f_vjp`. There, L is any scalar that depends on y = f(x), `dy` is the
gradient of L with respect to y, and the pullback returns dx, the gradient of L with respect to x. This is one link of
the chain rule; a model's backward is a chain of pullbacks. Features are the last axis, D of them in and F out.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxllm.reference.arrays import Array, Params, Vjp, chosen, float64, sum_to, vjp

EPSILON = 1e-5


def linear(x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None) -> Array:
    """y_f = sum_d x_d W_df + b_f: [..., D], [D, F], [F] -> [..., F]."""
    y = float64(x) @ float64(kernel)
    return y if bias is None else y + float64(bias)


@vjp
def linear_vjp(x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None = None) -> Vjp:
    """dx = dy W^T, dW = x^T dy and db = dy, the last two summed over all tokens."""
    x, kernel = float64(x), float64(kernel)

    def pullback(dy: Array) -> tuple[Array, Array, Array | None]:
        rows, d_rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        return dy @ kernel.T, rows.T @ d_rows, None if bias is None else d_rows.sum(axis=0)

    return linear(x, kernel, bias), pullback


def layer_norm(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias, mean and variance over the features. Ba et al. 2016."""
    x = float64(x)
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    y = (x - mean) / np.sqrt(variance + epsilon) * float64(scale)
    return y if bias is None else y + float64(bias)


@vjp
def layer_norm_vjp(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Vjp:
    """With z = (x - mean) / s, s = sqrt(var + epsilon) and dz = dy scale:

    dx = (dz - mean(dz) - z mean(dz z)) / s. The second term is the derivative of the mean, the third that of the
    variance: y does not change when all of x is shifted or stretched, so dx has no such part. dscale = dy z and
    dbias = dy, summed over all tokens.
    """
    x, scale = float64(x), float64(scale)
    centred = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    z = centred / s

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dz = dy * scale
        dx = (dz - dz.mean(axis=-1, keepdims=True) - z * (dz * z).mean(axis=-1, keepdims=True)) / s
        return dx, *_affine_gradients(dy, z, scale, bias), None

    return layer_norm(x, scale, bias, epsilon), pullback


def rms_norm(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * scale + bias, the mean over the features. Zhang and Sennrich 2019, equation 4."""
    x = float64(x)
    y = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon) * float64(scale)
    return y if bias is None else y + float64(bias)


@vjp
def rms_norm_vjp(x: ArrayLike, scale: ArrayLike, bias: ArrayLike | None = None, epsilon: float = EPSILON) -> Vjp:
    """With z = x / s, s = sqrt(mean(x^2) + epsilon) and dz = dy scale: dx = (dz - z mean(dz z)) / s.

    dscale = dy z and dbias = dy, summed over all tokens.
    """
    x, scale = float64(x), float64(scale)
    s = np.sqrt((x**2).mean(axis=-1, keepdims=True) + epsilon)
    z = x / s

    def pullback(dy: Array) -> tuple[Array | None, ...]:
        dz = dy * scale
        dx = (dz - z * (dz * z).mean(axis=-1, keepdims=True)) / s
        return dx, *_affine_gradients(dy, z, scale, bias), None

    return rms_norm(x, scale, bias, epsilon), pullback


def _affine_gradients(dy: Array, z: Array, scale: Array, bias: ArrayLike | None) -> tuple[Array, Array | None]:
    """dscale and dbias of y = z scale + bias."""
    return sum_to(dy * z, scale.shape), None if bias is None else sum_to(dy, np.shape(bias))


def gelu_tanh(x: ArrayLike) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), as in GPT-2. Hendrycks and Gimpel 2016, section 2."""
    x = float64(x)
    return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@vjp
def gelu_tanh_vjp(x: ArrayLike) -> Vjp:
    """With t = tanh(u), u = sqrt(2/pi) (x + 0.044715 x^3): dx = dy ((1 + t) / 2 + x/2 (1 - t^2) du/dx)."""
    x = float64(x)
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    slope = (1 + t) / 2 + x / 2 * (1 - t**2) * du
    return gelu_tanh(x), lambda dy: (dy * slope,)


def gelu(x: ArrayLike) -> Array:
    """x Phi(x) with Phi(x) = (1 + erf(x / sqrt(2))) / 2, the normal distribution. Hendrycks and Gimpel 2016."""
    x = float64(x)
    return x * _normal_distribution(x)


@vjp
def gelu_vjp(x: ArrayLike) -> Vjp:
    """dx = dy (Phi(x) + x phi(x)), phi(x) = exp(-x^2 / 2) / sqrt(2 pi), the derivative of Phi."""
    x = float64(x)
    slope = _normal_distribution(x) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    return gelu(x), lambda dy: (dy * slope,)


def _normal_distribution(x: Array) -> Array:
    """Phi(x). NumPy has no erf; the standard library's is applied number by number."""
    return (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2))) / 2


def relu(x: ArrayLike) -> Array:
    """max(x, 0)."""
    return np.maximum(float64(x), 0)


@vjp
def relu_vjp(x: ArrayLike) -> Vjp:
    """dx = dy where x > 0 and 0 where x < 0; at x = 0 it is dy / 2, the mean of both slopes, as in JAX."""
    x = float64(x)
    return relu(x), lambda dy: (dy * np.heaviside(x, 0.5),)


def squared_relu(x: ArrayLike) -> Array:
    """max(x, 0)^2. So et al. 2021 (Primer)."""
    return relu(x) ** 2


@vjp
def squared_relu_vjp(x: ArrayLike) -> Vjp:
    """dx = 2 dy max(x, 0)."""
    return squared_relu(x), lambda dy: (2 * dy * relu(x),)


def silu(x: ArrayLike) -> Array:
    """x sigmoid(x) = x / (1 + exp(-x))."""
    x = float64(x)
    return x * _sigmoid(x)


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), written with tanh, which cannot overflow."""
    return (1 + np.tanh(x / 2)) / 2


@vjp
def silu_vjp(x: ArrayLike) -> Vjp:
    """With s = sigmoid(x), whose derivative is s (1 - s): dx = dy (s + x s (1 - s))."""
    x = float64(x)
    s = _sigmoid(x)
    return silu(x), lambda dy: (dy * (s + x * s * (1 - s)),)


def swiglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """silu(gate) up. Shazeer 2020, equation 6."""
    return silu(gate) * float64(up)


@vjp
def swiglu_vjp(gate: ArrayLike, up: ArrayLike) -> Vjp:
    """By the product rule dup = dy silu(gate), and dgate is the gradient dy up taken back through silu."""
    opened, back = silu_vjp(gate)
    up = float64(up)
    return opened * up, lambda dy: (*back(dy * up), dy * opened)


def geglu(gate: ArrayLike, up: ArrayLike) -> Array:
    """gelu_tanh(gate) up. Shazeer 2020, equation 6."""
    return gelu_tanh(gate) * float64(up)


@vjp
def geglu_vjp(gate: ArrayLike, up: ArrayLike) -> Vjp:
    """By the product rule dup = dy gelu_tanh(gate), and dgate is the gradient dy up taken back through gelu_tanh."""
    opened, back = gelu_tanh_vjp(gate)
    up = float64(up)
    return opened * up, lambda dy: (*back(dy * up), dy * opened)


def softmax(x: ArrayLike) -> Array:
    """exp(x) / sum exp(x) over the last axis. Subtracting the maximum cancels in the ratio and prevents overflow."""
    x = float64(x)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@vjp
def softmax_vjp(x: ArrayLike) -> Vjp:
    """The derivative of y_i by x_j is y_i (1[i = j] - y_j), so dx = y (dy - sum_i dy_i y_i)."""
    y = softmax(x)
    return y, lambda dy: (y * (dy - (dy * y).sum(axis=-1, keepdims=True)),)


def dropout(x: ArrayLike, keep: ArrayLike) -> Array:
    """x keep, where `keep` holds 0 for a dropped number and 1 / (1 - rate) for any other. Srivastava et al. 2014."""
    return float64(x) * float64(keep)


@vjp
def dropout_vjp(x: ArrayLike, keep: ArrayLike) -> Vjp:
    """dx = dy keep, dkeep = dy x."""
    x, keep = float64(x), float64(keep)
    return dropout(x, keep), lambda dy: (sum_to(dy * keep, x.shape), sum_to(dy * x, keep.shape))


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu": gelu, "relu": relu, "squared_relu": squared_relu}
ACTIVATION_VJPS = {
    "gelu_tanh": gelu_tanh_vjp, "gelu": gelu_vjp, "relu": relu_vjp, "squared_relu": squared_relu_vjp,
}  # fmt: skip
GATED = {"swiglu": swiglu, "geglu": geglu}
GATED_VJPS = {"swiglu": swiglu_vjp, "geglu": geglu_vjp}
NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}
NORM_VJPS = {"layer_norm": layer_norm_vjp, "rms_norm": rms_norm_vjp}


def linear_map(params: Params, x: ArrayLike) -> Array:
    """Twin of the module `Linear`."""
    return linear(x, params["kernel"], params.get("bias"))


@vjp
def linear_map_vjp(params: Params, x: ArrayLike) -> Vjp:
    """`linear_vjp`, with the gradients of kernel and bias in a dict like `params`."""
    y, back = linear_vjp(x, params["kernel"], params.get("bias"))

    def pullback(dy: Array) -> tuple[Params, Array]:
        dx, dkernel, dbias = back(dy)
        return named(params, kernel=dkernel, bias=dbias), dx

    return y, pullback


def norm(params: Params, x: ArrayLike, kind: Any = "layer_norm", epsilon: float = EPSILON) -> Array:
    """Twin of the module `Norm`; `kind` as in `chosen`."""
    function, _ = chosen(kind, NORMS, NORM_VJPS)
    return float64(function(x, params["scale"], params.get("bias"), epsilon))


@vjp
def norm_vjp(params: Params, x: ArrayLike, kind: Any = "layer_norm", epsilon: float = EPSILON) -> Vjp:
    """The backward of the norm, with the gradients of scale and bias in a dict like `params`."""
    _, function_vjp = chosen(kind, NORMS, NORM_VJPS)
    y, back = function_vjp(x, params["scale"], params.get("bias"), epsilon)

    def pullback(dy: Array) -> tuple[Params, Array, None, None]:
        dx, dscale, dbias = back(dy)[:3]
        return named(params, scale=dscale, bias=dbias), dx, None, None

    return y, pullback


def mlp(params: Params, x: ArrayLike, activation: Any = "gelu_tanh", seen: dict[str, Array] | None = None) -> Array:
    """Twin of the module `MLP`; `activation` as in `chosen`. `seen` is filled with the results of `up` and `gate`."""
    seen = {} if seen is None else seen
    function, _ = chosen(activation, ACTIVATIONS | GATED, ACTIVATION_VJPS | GATED_VJPS)
    for name in _maps(params):
        seen[name] = linear_map(params[name], x)
    return linear_map(params["down"], function(*(seen[name] for name in _maps(params))))


def _maps(params: Params) -> tuple[str, ...]:
    """The maps whose results the activation takes."""
    return ("gate", "up") if "gate" in params else ("up",)


@vjp
def mlp_vjp(
    params: Params, x: ArrayLike, activation: Any = "gelu_tanh", cotangents: dict[str, Array] | None = None
) -> Vjp:
    """Back through `down`, the activation, and `up` and `gate`; both read x, so their gradients of x are added.

    `cotangents` is filled with the gradients at the results of `up` and `gate`.
    """
    cotangents = {} if cotangents is None else cotangents
    inner = _maps(params)
    _, function_vjp = chosen(activation, ACTIVATIONS | GATED, ACTIVATION_VJPS | GATED_VJPS)
    outs, backs = zip(*(linear_map_vjp(params[name], x) for name in inner), strict=True)
    hidden, activation_back = function_vjp(*outs)
    y, down_back = linear_map_vjp(params["down"], hidden)

    def pullback(dy: Array) -> tuple[Params, Array, None, None]:
        d_down, d_hidden = down_back(dy)
        cotangents.update(zip(inner, activation_back(d_hidden), strict=True))
        d_inner, dxs = zip(*(back(cotangents[name]) for name, back in zip(inner, backs, strict=True)), strict=True)
        return {**dict(zip(inner, d_inner, strict=True)), "down": d_down}, sum(dxs), None, None

    return y, pullback


def named(params: Params, **gradients: Array | None) -> Params:
    """A dict of those gradients whose parameter is in `params`."""
    return {name: gradients[name] for name in params}
