"""Linear maps, norms, activations, dropout and the MLP.

The functions hold the mathematics and follow the dtype of `x`: parameters may stay float32 while `x` is
bfloat16. Reductions (norms, softmax) are computed in at least float32, as nanodo, gemma and equinox do.
The NumPy twins are in `jaxllm.reference.layers`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

EPSILON = 1e-5  # of the norms, as in GPT-2 (flax's own default is 1e-6)
INIT_STD = 0.02  # of every weight matrix, as in GPT-2


def at_least_float32(x: Array) -> Array:
    """`x` in float32, or in float64 if it is so already."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


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
    x, kernel = saved
    x = jax.lax.optimization_barrier(x)
    return dy @ kernel.T, jnp.einsum("...d,...f->df", x, dy)


_product.defvjp(_product_forward, _product_backward)


def layer_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = EPSILON) -> Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axis, with the biased variance.

    x [..., D], scale and bias [D] -> [..., D] in the dtype of x. Ba et al. 2016, equation 4.
    """
    z = at_least_float32(x)
    centred = z - z.mean(-1, keepdims=True)
    normal = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    return _affine(normal, scale, bias).astype(x.dtype)


def rms_norm(x: Array, scale: Array, bias: Array | None = None, epsilon: float = EPSILON) -> Array:
    """x / sqrt(mean(x^2) + epsilon) * scale + bias over the last axis; no mean is taken off.

    x [..., D], scale and bias [D] -> [..., D] in the dtype of x. Zhang and Sennrich 2019, equation 4.
    """
    z = at_least_float32(x)
    normal = z * jax.lax.rsqrt(jnp.square(z).mean(-1, keepdims=True) + epsilon)
    return _affine(normal, scale, bias).astype(x.dtype)


def _affine(x: Array, scale: Array, bias: Array | None) -> Array:
    y = x * jnp.broadcast_to(scale.astype(x.dtype), x.shape)
    return y if bias is None else y + jnp.broadcast_to(bias.astype(x.dtype), x.shape)


def gelu_tanh(x: Array) -> Array:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's form. Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


def gelu(x: Array) -> Array:
    """x Phi(x) with the exact normal distribution, PyTorch's default. Hendrycks and Gimpel 2016, equation 1."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


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
NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


class Linear(nn.Module):
    """Parameters of `linear`: kernel [D, features] normal(init_std), bias [features] zero."""

    features: int
    use_bias: bool = True
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return linear(x, kernel, bias)


class Norm(nn.Module):
    """Parameters of `layer_norm` or `rms_norm`: scale [D] one, bias [D] zero."""

    kind: str = "layer_norm"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]) if self.use_bias else None
        return NORMS[self.kind](x, scale, bias)


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
    """Two linear maps around an activation: [..., D] -> [..., hidden_dim] -> [..., D]."""

    hidden_dim: int
    activation: str = "gelu_tanh"
    use_bias: bool = True
    output_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = ACTIVATIONS[self.activation](Linear(self.hidden_dim, self.use_bias, name="up")(x))
        return Linear(x.shape[-1], self.use_bias, self.output_std, name="down")(hidden)
