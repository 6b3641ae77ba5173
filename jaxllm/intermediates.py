"""Values inside a module that get a name, as the results of modules have."""

from flax import linen as nn
from jaxtyping import Float

from jaxllm.array import Array


class Intermediate(nn.Module):
    """The identity: its argument is the result of a module, which can be captured and intercepted from outside."""

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return x


def named(parent: nn.Module, name: str, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x itself, or what an interceptor makes of it, under a name in `parent` where intermediates are requested.

    Where none are requested, nothing is added to the program. Call it in a compact method of `parent`.
    """
    return Intermediate(name=name)(x) if parent.is_mutable_collection("intermediates") else x
