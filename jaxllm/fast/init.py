"""A model's first parameters: those of `model.init`, from a program that XLA compiles about twice as fast.

In `model.init` every weight matrix brings its own copy of the random generator, which XLA optimises and compiles one by
one: 9 s for GPT-2 124M on 2 cores, longer than its training step. Here the matrices of one shape are drawn together:
5 s. nanodo compiles the plain `init`; a process that starts often, as on a laptop, waits for it every time.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array


class Draw(NamedTuple):
    """A matrix still to be drawn, and the zeros that stand for it."""

    place: Array
    key: Array
    std: float


_put_off: ContextVar[list[Draw] | None] = ContextVar("_put_off", default=None)


def normal(std: float) -> Callable[[Array, tuple[int, ...]], Array]:
    """Initializer of a weight matrix: flax's `normal`, which `init_params` can put off."""

    def initializer(key: Array, shape: tuple[int, ...]) -> Array:
        put_off = _put_off.get()
        if put_off is None:
            return nn.initializers.normal(std)(key, shape)
        put_off.append(Draw(jnp.zeros(shape), key, std))
        return put_off[-1].place

    return initializer


def init_params(model: nn.Module, key: Array, *inputs: Array) -> Any:
    """`model.init(key, *inputs)["params"]` to the bit; to be called under `jax.jit`."""
    put_off: list[Draw] = []
    token = _put_off.set(put_off)
    try:
        params = model.init(key, *inputs)["params"]
    finally:
        _put_off.reset(token)
    drawn = _draw(put_off)
    return jax.tree.map(lambda leaf: drawn.get(id(leaf), leaf), params)


def _draw(put_off: list[Draw]) -> dict[int, Array]:
    """The matrices by the identity of what stands for them."""
    alike: dict[tuple[tuple[int, ...], float], list[Draw]] = {}
    for one in put_off:
        alike.setdefault((one.place.shape, one.std), []).append(one)
    drawn: dict[int, Array] = {}
    for (shape, std), group in alike.items():
        keys = jnp.stack([one.key for one in group])
        together = jax.vmap(lambda key, shape=shape, std=std: nn.initializers.normal(std)(key, shape))(keys)
        together = jax.lax.optimization_barrier(together)  # or XLA would compile it into each use again
        drawn |= {id(one.place): matrix for one, matrix in zip(group, together, strict=True)}
    return drawn
