"""A mixture of experts in place of the MLP: a router sends each token to a few of E gated MLPs.

    chosen_experts    the experts with the largest logits of the router
    expert_weights    the softmax of the logits, at the chosen experts
    experts           each token's sum of what its experts make of it
    Experts           the parameters: a router and the kernels of all experts

Shazeer et al. 2017; in the form of Qwen 3 (Yang et al. 2025; transformers, Qwen3MoeSparseMoeBlock). No loss balances
the experts here. The NumPy twins are in `jaxllm.reference.experts`, a faster form in `jaxllm.fast.experts`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import normal
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.fast import has_fast_form
from jaxllm.layers import GATED, INIT_STD, Linear, linear, softmax
from jaxllm.precision import at_least_float32


def chosen_experts(logits: Float[Array, "*batch E"], n_per_token: int) -> Int[Array, "*batch {n_per_token}"]:
    """The experts of each token: those with the largest logits, the largest first; of equals the first."""
    return jax.lax.top_k(logits, n_per_token)[1]


def expert_weights(
    logits: Float[Array, "*batch E"], chosen: Int[Array, "*batch k"], normalise: bool = True
) -> Float[Array, "*batch k"]:
    """softmax(logits) at the chosen experts, in at least float32; divided by their sum if `normalise`."""
    weights = jnp.take_along_axis(softmax(logits), chosen, axis=-1)
    return weights / weights.sum(-1, keepdims=True) if normalise else weights


@has_fast_form
def experts(
    x: Float[Array, "*batch D"], chosen: Int[Array, "*batch k"], weights: Float[Array, "*batch k"],
    gate: Float[Array, "E D F"], up: Float[Array, "E D F"], down: Float[Array, "E F D"], activation: str = "swiglu",
) -> Float[Array, "*batch D"]:  # fmt: skip
    """The sum over a token's chosen experts of weight times activation(x gate, x up) down, in the dtype of x.

    The experts take turns, each with all tokens: a token that has not chosen an expert gives it the weight 0. Summed in
    at least float32.
    """

    def add(y: Array, expert: tuple[Array, ...]) -> tuple[Array, None]:
        e, of_gate, of_up, of_down = expert
        weight = jnp.where(chosen == e, weights, 0).sum(-1, keepdims=True)
        hidden = GATED[activation](linear(x, of_gate), linear(x, of_up))
        return y + weight.astype(y.dtype) * linear(hidden, of_down), None

    turns = (jnp.arange(len(gate)), gate, up, down)
    return jax.lax.scan(add, jnp.zeros_like(at_least_float32(x)), turns)[0].astype(x.dtype)


class ExpertKernels(nn.Module):
    """The kernels [E, D, F] of one map of all experts, normal(init_std)."""

    n_experts: int
    d_in: int
    d_out: int
    init_std: float = INIT_STD

    @nn.compact
    def __call__(self) -> Float[Array, "{self.n_experts} {self.d_in} {self.d_out}"]:
        return self.param("kernels", normal(self.init_std), (self.n_experts, self.d_in, self.d_out))


class Experts(nn.Module):
    """`n_experts` gated MLPs, D features to `hidden_dim` and back, of which a token passes through `n_per_token`.

    The router is a linear map [D, E]. Nothing has a bias.
    """

    n_experts: int
    n_per_token: int
    hidden_dim: int
    activation: str = "swiglu"
    normalise: bool = True
    output_std: float = INIT_STD
    input_std: float = INIT_STD

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        n, d, f = self.n_experts, x.shape[-1], self.hidden_dim
        logits = Linear(n, False, self.input_std, name="router")(x)
        chosen = chosen_experts(logits, self.n_per_token)
        weights = expert_weights(logits, chosen, self.normalise)
        gate, up = (ExpertKernels(n, d, f, self.input_std, name=name)() for name in ("gate", "up"))
        down = ExpertKernels(n, f, d, self.output_std, name="down")()
        return experts(x, chosen, weights, gate, up, down, self.activation)
