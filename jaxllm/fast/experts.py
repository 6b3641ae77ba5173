"""Functions of `jaxllm.experts`, faster."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxllm.array import Array
from jaxllm.layers import GATED, linear
from jaxllm.precision import at_least_float32


def experts(
    x: Float[Array, "*batch D"], chosen: Int[Array, "*batch k"], weights: Float[Array, "*batch k"],
    gate: Float[Array, "E D F"], up: Float[Array, "E D F"], down: Float[Array, "E F D"], activation: str = "swiglu",
) -> Float[Array, "*batch D"]:  # fmt: skip
    """`jaxllm.experts.experts`, in which an expert that no token has chosen is passed over.

    Of a single token, as in generation, only the kernels of its own experts are read.
    """

    def add(y: Array, expert: tuple[Array, ...]) -> Array:
        e, of_gate, of_up, of_down = expert
        weight = jnp.where(chosen == e, weights, 0).sum(-1, keepdims=True)
        hidden = GATED[activation](linear(x, of_gate), linear(x, of_up))
        return y + weight.astype(y.dtype) * linear(hidden, of_down)

    def turn(y: Array, expert: tuple[Array, ...]) -> tuple[Array, None]:
        return jax.lax.cond((chosen == expert[0]).any(), add, lambda y, expert: y, y, expert), None

    turns = (jnp.arange(len(gate)), gate, up, down)
    return jax.lax.scan(turn, jnp.zeros_like(at_least_float32(x)), turns)[0].astype(x.dtype)
