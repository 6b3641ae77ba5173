"""Linear maps, norms, activations, dropout and the MLP.

The functions hold the mathematics and follow the dtype of `x`: parameters may stay float32 while `x` is
bfloat16. Reductions (norms, softmax) are computed in at least float32, as nanodo, gemma and equinox do.
The NumPy twins are in `jaxllm.reference.layers`.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.lax import optimization_barrier

from jaxllm.fast.init import normal
from jaxllm.fast.quantised_weights import parameter
from jaxllm.precision import at_least_float32

EPSILON = 1e-5  # of the norms, as in GPT-2 (flax's own default is 1e-6)
INIT_STD = 0.02  # of every weight matrix, as in GPT-2


def linear(x: Array, kernel: Array, bias: Array | None = None) -> Array:
    """y = x W + b. x [..., D], kernel [D, F], bias [F] -> [..., F] in the dtype of x.

    Its backward is written out for speed, so it has a reverse-mode derivative only (`jax.grad`, not `jax.jvp`).
    """
    y = _product(x, kernel.astype(x.dtype))
    return y if bias is None else y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return x @ kernel, (x, kernel)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    # The derivatives of any matrix product, but x stays as it was saved: without the barrier XLA on a CPU computes
    # the norm or activation that made x a second time, in the strided order that x^T dy wants. A step of a small
    # GPT takes a third less time with it (112 to 126 ms without, 74 to 84 ms with, 2 cores, JAX 0.12).
    (x, kernel), dy = optimization_barrier((saved, dy))
    # And x^T dy with x first: the other way round, or with both in two axes, steps took up to 6 % longer.
    return dy @ kernel.T, jnp.einsum("...d,...f->df", x, dy)


_product.defvjp(_product_forward, _product_backward)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = EPSILON) -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axis, with the biased variance.

    x [..., D], scale and bias [D] -> [..., D] in the dtype of x. Ba et al. 2016, equation 4.
    """
    return _norm(x, scale, bias, epsilon, True)


def rms_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = EPSILON) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * scale + bias over the last axis; no mean is taken off.

    x [..., D], scale and bias [D] -> [..., D] in the dtype of x. Zhang and Sennrich 2019, equation 4.
    """
    return _norm(x, scale, bias, epsilon, False)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x: Array, scale: Array, bias: Array | None, epsilon: float, centre: bool) -> Array:
    normal, _ = _normalise(x, epsilon, centre)
    y = normal * jnp.broadcast_to(scale.astype(normal.dtype), x.shape)
    return (y if bias is None else y + jnp.broadcast_to(bias.astype(y.dtype), x.shape)).astype(x.dtype)


def _normalise(x: Array, epsilon: float, centre: bool) -> tuple[Array, Array]:
    """x with mean 0 (where it is centred) and mean square 1 over the last axis, and what it was multiplied by."""
    z = at_least_float32(x)
    z = z - z.mean(-1, keepdims=True) if centre else z
    factor = jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + epsilon)
    return z * factor, factor


Saved = tuple[Array, Array, Array | None]


def _norm_forward(x: Array, scale: Array, bias: Array | None, epsilon: float, centre: bool) -> tuple[Array, Saved]:
    # The barriers keep XLA on a CPU from sharing mean and root between the directions, or the sum before with the norm:
    # each direction is then one loop over x, which is all that is kept.
    return _norm(optimization_barrier(x), scale, bias, epsilon, centre), (x, scale, bias)


def _norm_backward(epsilon: float, centre: bool, saved: Saved, dy: Array) -> Saved:
    # As in the twin: of g = dy scale, what would shift or stretch x is taken off.
    (x, scale, bias), dy = optimization_barrier((saved, dy))
    normal, factor = _normalise(x, epsilon, centre)
    dy = dy.astype(normal.dtype)
    g = dy * jnp.broadcast_to(scale.astype(dy.dtype), dy.shape)
    along = normal * (g * normal).mean(-1, keepdims=True)
    dx = factor * ((g - g.mean(-1, keepdims=True) if centre else g) - along)
    rows = tuple(range(x.ndim - 1))
    dbias = None if bias is None else dy.sum(rows).astype(bias.dtype)
    return dx.astype(x.dtype), (dy * normal).sum(rows).astype(scale.dtype), dbias


_norm.defvjp(_norm_forward, _norm_backward)


def _with_slope(slope: Callable[[Array], Array]) -> Callable[[Callable[[Array], Array]], Callable[[Array], Array]]:
    """Gives an elementwise function the derivative `slope`, computed anew from x: x alone is kept for the backward.

    Left to itself, XLA on a CPU stores what the two directions share and makes two loops of the forward one.
    """

    def decorate(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        f = jax.custom_vjp(function)
        f.defvjp(lambda x: (function(x), x), backward)
        return f

    def backward(x: Array, dy: Array) -> tuple[Array]:
        x, dy = optimization_barrier((x, dy))
        return (dy * slope(x),)

    return decorate


def _gelu_tanh(x: Array) -> Array:
    return jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x))


def _gelu_tanh_slope(x: Array) -> Array:
    t, du = _gelu_tanh(x), (2 / jnp.pi) ** 0.5 * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du


@_with_slope(_gelu_tanh_slope)
def gelu_tanh(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's form. Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + _gelu_tanh(x))


def _gelu_slope(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5)) + x * jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5


@_with_slope(_gelu_slope)
def gelu(x: Array) -> Array:
    """x Phi(x) with the exact normal distribution, PyTorch's default. Hendrycks and Gimpel 2016, equation 1."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


def _silu_slope(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


@_with_slope(_silu_slope)
def silu(x: Array) -> Array:
    """x / (1 + exp(-x)), also called swish. Hendrycks and Gimpel 2016, section 2; Ramachandran et al. 2017."""
    return x * jax.nn.sigmoid(x)


def swiglu(gate: Array, up: Array) -> Array:
    """silu(gate) up: [..., F] twice -> [..., F]. Shazeer 2020, equation 6."""
    return silu(gate) * up


def geglu(gate: Array, up: Array) -> Array:
    """gelu_tanh(gate) up, as in Gemma: [..., F] twice -> [..., F]. Shazeer 2020, equation 6."""
    return gelu_tanh(gate) * up


def softmax(x: Array) -> Array:
    """exp(x) / sum exp(x) over the last axis, shifted by the maximum, in at least float32."""
    z = at_least_float32(x)
    z = jnp.exp(z - jax.lax.stop_gradient(z.max(-1, keepdims=True)))
    return z / z.sum(-1, keepdims=True)


def dropout(x: Array, keep: Array) -> Array:
    """x times a mask of 0 and 1/(1 - rate), see `dropout_mask`: the mask is data, so this has a twin."""
    return x * keep.astype(x.dtype)


def dropout_mask(key: Array, shape: tuple[int, ...], rate: float) -> Array:
    """Mask of 0 (probability `rate`) and 1/(1 - rate), float32. Srivastava et al. 2014.

    Sixteen random bits an element halve the cost of a uniform float; the rate is kept to 1/65536.
    """
    threshold = min(round(rate * 65536), 65535)
    kept = jax.random.bits(key, shape, jnp.uint16) >= threshold
    return jnp.where(kept, 65536 / (65536 - threshold), 0.0).astype(jnp.float32)


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu": gelu, "relu": relu}
GATED = {"swiglu": swiglu, "geglu": geglu}  # those of an MLP with a gate
NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


class Linear(nn.Module):
    """Parameters of `linear`: kernel [D, features] normal(init_std), bias [features] zero."""

    features: int
    use_bias: bool = True
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = parameter(self, "kernel", normal(self.init_std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return linear(x, kernel, bias)


class Norm(nn.Module):
    """Parameters of `layer_norm` or `rms_norm`: scale [D] one, bias [D] zero."""

    kind: str = "layer_norm"
    use_bias: bool = True
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]) if self.use_bias else None
        return NORMS[self.kind](x, scale, bias, self.epsilon)


class Dropout(nn.Module):
    """`dropout`, active where `apply(..., rngs={"dropout": key})` gives a key; the identity elsewhere."""

    rate: float

    @nn.compact
    def __call__(self, x: Array) -> Array:
        keep = self.mask(x.shape)
        return x if keep is None else dropout(x, keep)

    def mask(self, shape: tuple[int, ...]) -> Array | None:
        """The mask alone, for attention weights; None where dropout is off."""
        if self.rate == 0 or not self.has_rng("dropout"):
            return None
        return dropout_mask(self.make_rng("dropout"), shape, self.rate)


class MLP(nn.Module):
    """Two linear maps around an activation: [..., D] -> [..., hidden_dim] -> [..., D].

    With a gated activation a third map, the gate, decides how much of each hidden feature passes (Shazeer 2020).
    """

    hidden_dim: int
    activation: str = "gelu_tanh"
    use_bias: bool = True
    output_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if self.activation in GATED:
            gate, up = (Linear(self.hidden_dim, self.use_bias, name=name)(x) for name in ("gate", "up"))
            hidden = GATED[self.activation](gate, up)
        else:
            hidden = ACTIVATIONS[self.activation](Linear(self.hidden_dim, self.use_bias, name="up")(x))
        return Linear(x.shape[-1], self.use_bias, self.output_std, name="down")(hidden)
