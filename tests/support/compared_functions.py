"""A function with its twin and its backward, and one with a wrong derivative, for the tests of comparisons."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

X = np.random.default_rng(0).normal(size=(3, 4))


def mish(x: jax.Array) -> jax.Array:
    return x * jnp.tanh(jax.nn.softplus(x))


def mish_twin(x: np.ndarray) -> np.ndarray:
    return x * np.tanh(np.log1p(np.exp(x)))


def mish_vjp(x: np.ndarray, factor: float = 1.0) -> Any:
    t = np.tanh(np.log1p(np.exp(x)))
    slope = t + x * (1 - t**2) / (1 + np.exp(-x))
    return mish_twin(x), lambda dy: (factor * dy * slope,)


def sloped(slope: float) -> Any:
    """x^2 with a wrong derivative."""
    f = jax.custom_jvp(lambda x: x**2)
    f.defjvp(lambda xs, ts: (xs[0] ** 2, slope * ts[0]))
    return f
