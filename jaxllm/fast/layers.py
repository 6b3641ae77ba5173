"""Functions of `jaxllm.layers` with a backward written for speed. They have a reverse-mode derivative only.

XLA on a CPU shares common expressions of forward and backward: it stores them, and splits the forward loop to do so.
The `optimization_barrier`s prevent that. Only the arguments are kept, and each backward starts from them.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.lax import optimization_barrier
from jaxtyping import Float

from jaxllm import layers
from jaxllm.array import Array, StoredKernel
from jaxllm.fast import formula
from jaxllm.fast.products import active, computes, product
from jaxllm.fast.quantised_weights import Kernel
from jaxllm.layers import EPSILON
from jaxllm.precision import at_least_float32


def linear(
    x: Float[Array, "*batch D"], kernel: Float[Kernel, "D F"], bias: Float[Array, "F"] | None = None
) -> Float[Array, "*batch F"]:
    """`jaxllm.layers.linear`, whose backward reads x as it was saved."""
    kernel = kernel.astype(x.dtype)
    y = x @ kernel if isinstance(kernel, StoredKernel) else _product(x, kernel)
    return y if bias is None else _add_bias(y, bias.astype(y.dtype))


@jax.custom_vjp
def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel


def _product_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return product("...d,df->...f", x, kernel), (x, kernel)


def _product_backward(saved: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    # Without the barrier XLA on a CPU computes the norm or activation that made x a second time, in the strided order
    # in which x^T dy reads it.
    (x, kernel), dy = optimization_barrier((saved, dy))
    # x stands first in x^T dy, and the result has two axes: XLA on a CPU is slower in the other forms.
    return product("...f,df->...d", dy, kernel), product("...d,...f->df", x, dy)


_product.defvjp(_product_forward, _product_backward)


@jax.custom_vjp
def _add_bias(y: Array, bias: Array) -> Array:
    return y + bias


def _add_bias_backward(_: None, dy: Array) -> tuple[Array, Array]:
    if not computes(active(), dy):
        return dy, dy.sum(tuple(range(dy.ndim - 1)))
    # A library sums columns sooner, as the product of a row of ones.
    return dy, product("...d,...f->df", jnp.ones((*dy.shape[:-1], 1), dy.dtype), dy)[0]


_add_bias.defvjp(lambda y, bias: (y + bias, None), _add_bias_backward)


def layer_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None = None,
    epsilon: float = EPSILON,
) -> Float[Array, "*batch D"]:  # fmt: skip
    """`jaxllm.layers.layer_norm`; forward and backward are one loop over x each."""
    return _norm(x, scale, bias, epsilon, True)


def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None = None,
    epsilon: float = EPSILON,
) -> Float[Array, "*batch D"]:  # fmt: skip
    """`jaxllm.layers.rms_norm`; forward and backward are one loop over x each."""
    return _norm(x, scale, bias, epsilon, False)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _norm(x: Array, scale: Array, bias: Array | None, epsilon: float, centre: bool) -> Array:
    normal, _ = _normalise(x, epsilon, centre)
    y = normal * scale.astype(normal.dtype)
    return (y if bias is None else y + bias.astype(y.dtype)).astype(x.dtype)


def _normalise(x: Array, epsilon: float, centre: bool) -> tuple[Array, Array]:
    """x with mean square 1 (and mean 0, if `centre`) over the last axis, and the factor that it was multiplied by."""
    z = at_least_float32(x)
    z = z - z.mean(-1, keepdims=True) if centre else z
    factor = jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + epsilon)
    return z * factor, factor


NormSaved = tuple[Array, Array, Array | None]


def _norm_forward(x: Array, scale: Array, bias: Array | None, epsilon: float, centre: bool) -> tuple[Array, NormSaved]:
    # The barrier also keeps the sum that made x out of the norm's loop.
    return _norm(optimization_barrier(x), scale, bias, epsilon, centre), (x, scale, bias)


def _norm_backward(epsilon: float, centre: bool, saved: NormSaved, dy: Array) -> NormSaved:
    # g = dy scale, without its components along 1 (which would shift x) and along x (which would stretch it).
    (x, scale, bias), dy = optimization_barrier((saved, dy))
    normal, factor = _normalise(x, epsilon, centre)
    dy = dy.astype(normal.dtype)
    g = dy * scale.astype(dy.dtype)
    along = normal * (g * normal).mean(-1, keepdims=True)
    dx = factor * ((g - g.mean(-1, keepdims=True) if centre else g) - along)
    rows = tuple(range(x.ndim - 1))
    dbias = None if bias is None else dy.sum(rows).astype(bias.dtype)
    return dx.astype(x.dtype), (dy * normal).sum(rows).astype(scale.dtype), dbias


_norm.defvjp(_norm_forward, _norm_backward)


def _with_slope(slope: Callable[[Array], Array]) -> Callable[[Callable[[Array], Array]], Callable[[Array], Array]]:
    """Decorate an elementwise function with the derivative `slope`, computed from x in the backward."""

    def decorate(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
        f = jax.custom_vjp(function)
        f.defvjp(lambda x: (function(x), x), backward)
        return f

    def backward(x: Array, dy: Array) -> tuple[Array]:
        x, dy = optimization_barrier((x, dy))
        return (dy * slope(x),)

    return decorate


def _gelu_tanh_slope(x: Array) -> Array:
    t = jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x))
    du = (2 / jnp.pi) ** 0.5 * (1 + 3 * 0.044715 * x * x)
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du


@_with_slope(_gelu_tanh_slope)
def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`jaxllm.layers.gelu_tanh`."""
    return formula(layers.gelu_tanh)(x)


def _gelu_slope(x: Array) -> Array:
    return 0.5 * (1 + jax.lax.erf(x * 0.5**0.5)) + x * jnp.exp(-0.5 * x * x) * (2 * jnp.pi) ** -0.5


@_with_slope(_gelu_slope)
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`jaxllm.layers.gelu`."""
    return formula(layers.gelu)(x)


def _silu_slope(x: Array) -> Array:
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


@_with_slope(_silu_slope)
def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`jaxllm.layers.silu`."""
    return formula(layers.silu)(x)
