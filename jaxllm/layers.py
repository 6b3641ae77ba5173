"""Linear maps, norms, activations, dropout and the MLP.

The functions follow the dtype of `x`: parameters may stay float32 while `x` is bfloat16. Reductions (norms, softmax)
are computed in at least float32. Twins are in `jaxllm.reference.layers`, faster forms in `jaxllm.fast.layers`.
"""

from typing import cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import normal
from jaxtyping import Float, Float32, Key

from jaxllm.array import Array
from jaxllm.config import is_gated
from jaxllm.fast import has_fast_form
from jaxllm.fast.quantised_weights import Kernel, parameter
from jaxllm.precision import at_least_float32
from jaxllm.utils.ideas import Idea, named

EPSILON = 1e-5  # of the norms, as in GPT-2 (flax's own default is 1e-6)
INIT_STD = 0.02  # of the normal distribution of initial weight matrices and tables, as in GPT-2


def hidden_std(width_ratio: float = 1.0) -> float:
    """INIT_STD / sqrt(m), for the maps of the blocks of a model m times as wide as its base (`GPTConfig.width_ratio`).

    Yang et al. 2022, table 8: the variance of hidden weights is inversely proportional to their fan-in.
    """
    return INIT_STD / width_ratio**0.5


def residual_std(n_layers: int, zero: bool = False, width_ratio: float = 1.0) -> float:
    """`hidden_std` / sqrt(2L), for maps whose results are added to the residual stream.

    The sum of all 2L keeps its scale. Radford et al. 2019, section 2.3. With `zero` it is 0, so that each block begins
    as the identity: Zhang et al. 2019 (Fixup), rule 1.
    """
    return 0.0 if zero else hidden_std(width_ratio) / (2 * n_layers) ** 0.5


@has_fast_form
def linear(
    x: Float[Array, "*batch D"], kernel: Float[Kernel, "D F"], bias: Float[Array, "F"] | None = None
) -> Float[Array, "*batch F"]:
    """y = x W + b, in the dtype of x."""
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + bias.astype(x.dtype)


@has_fast_form
def layer_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None = None,
    epsilon: float = EPSILON,
) -> Float[Array, "*batch D"]:  # fmt: skip
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the last axis, with the biased variance.

    In the dtype of x. Ba et al. 2016, equation 4.
    """
    z = at_least_float32(x)
    y = (z - z.mean(-1, keepdims=True)) / jnp.sqrt(z.var(-1, keepdims=True) + epsilon) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


@has_fast_form
def rms_norm(
    x: Float[Array, "*batch D"], scale: Float[Array, "D"], bias: Float[Array, "D"] | None = None,
    epsilon: float = EPSILON,
) -> Float[Array, "*batch D"]:  # fmt: skip
    """x / sqrt(mean(x^2) + epsilon) * scale + bias over the last axis; the mean is not subtracted.

    In the dtype of x. Zhang and Sennrich 2019, equation 4.
    """
    z = at_least_float32(x)
    y = z / jnp.sqrt(jnp.square(z).mean(-1, keepdims=True) + epsilon) * scale
    return (y if bias is None else y + bias).astype(x.dtype)


@has_fast_form
def gelu_tanh(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's form. Hendrycks and Gimpel 2016, section 2."""
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x * x * x)))


@has_fast_form
def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x Phi(x) with the exact normal distribution, PyTorch's default. Hendrycks and Gimpel 2016, equation 1."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


def squared_relu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """max(x, 0)^2. So et al. 2021 (Primer)."""
    return jnp.square(jnp.maximum(x, 0))


@has_fast_form
def silu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x / (1 + exp(-x)), also called swish. Hendrycks and Gimpel 2016, section 2; Ramachandran et al. 2017."""
    return x * jax.nn.sigmoid(x)


def swiglu(gate: Float[Array, "*batch F"], up: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """silu(gate) up. Shazeer 2020, equation 6."""
    return silu(gate) * up


def geglu(gate: Float[Array, "*batch F"], up: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    """gelu_tanh(gate) up, as in Gemma. Shazeer 2020, equation 6."""
    return gelu_tanh(gate) * up


def softmax(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """exp(x) / sum exp(x) over the last axis, shifted by the maximum, in at least float32."""
    z = at_least_float32(x)
    z = jnp.exp(z - jax.lax.stop_gradient(z.max(-1, keepdims=True)))
    return z / z.sum(-1, keepdims=True)


def dropout(x: Float[Array, "*shape"], keep: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x times a mask of 0 and 1/(1 - rate) from `dropout_mask`."""
    return x * keep.astype(x.dtype)


def dropout_mask(key: Key[Array, ""], shape: tuple[int, ...], rate: float) -> Float32[Array, "..."]:
    """A mask of the shape: 0 with probability `rate`, 1/(1 - rate) elsewhere. Srivastava et al. 2014.

    Each element takes 16 random bits, where a uniform float takes 32; the rate is rounded to a multiple of 1/65536.
    """
    threshold = min(round(rate * 65536), 65535)
    kept = jax.random.bits(key, shape, jnp.uint16) >= threshold
    return jnp.where(kept, 65536 / (65536 - threshold), 0.0).astype(jnp.float32)


ACTIVATIONS = {"gelu_tanh": gelu_tanh, "gelu": gelu, "relu": relu, "squared_relu": squared_relu}
GATED = {"swiglu": swiglu, "geglu": geglu}  # activations of an MLP with a gate
NORMS = {"layer_norm": layer_norm, "rms_norm": rms_norm}


class Linear(nn.Module):
    """Parameters of `linear`: kernel [D, features] normal(init_std), bias [features] zero."""

    features: int
    use_bias: bool = True
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch {self.features}"]:
        kernel = parameter(self, "kernel", normal(self.init_std), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)) if self.use_bias else None
        return linear(x, kernel, bias)


class Norm(nn.Module):
    """Parameters of `layer_norm`, `rms_norm` or a function of their signature: scale [D] one, bias [D] zero."""

    kind: str | Idea = "layer_norm"
    use_bias: bool = True
    epsilon: float = EPSILON

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:]) if self.use_bias else None
        return cast(Array, named(self.kind, NORMS, "norm")(x, scale, bias, self.epsilon)).astype(x.dtype)


class Dropout(nn.Module):
    """`dropout`, active if `apply(..., rngs={"dropout": key})` gives a key; otherwise the identity."""

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        keep = self.mask(x.shape)
        return x if keep is None else dropout(x, keep)

    def mask(self, shape: tuple[int, ...]) -> Float32[Array, "..."] | None:
        """The mask alone, for attention weights; None if dropout is off."""
        if self.rate == 0 or not self.has_rng("dropout"):
            return None
        return dropout_mask(self.make_rng("dropout"), shape, self.rate)


class MLP(nn.Module):
    """Two linear maps around an activation, from D features to `hidden_dim` and back.

    With a gated activation, one of two arguments, a third map, the gate, decides how much of each hidden feature passes
    (Shazeer 2020).
    """

    hidden_dim: int
    activation: str | Idea = "gelu_tanh"
    use_bias: bool = True
    output_std: float = INIT_STD
    input_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        names = ("gate", "up") if is_gated(self.activation) else ("up",)
        maps = [Linear(self.hidden_dim, self.use_bias, self.input_std, name=name)(x) for name in names]
        hidden = named(self.activation, ACTIVATIONS | GATED, "activation")(*maps).astype(x.dtype)
        return Linear(x.shape[-1], self.use_bias, self.output_std, name="down")(hidden)
