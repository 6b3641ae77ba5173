"""This machine as a chip: its peaks, measured briefly."""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..runtime.memory import available_bytes
from ..step import compiler_options
from .chips import Chip

SIDE = 2048  # of the matrices
LENGTH = 2**23  # of the vectors, longer than the arrays of most steps on a CPU
TRIES = 5


def this_machine(dtype: str) -> Chip:
    """The CPU: the best of some products of square matrices, and of some sums of two long vectors."""
    with jax.default_device(jax.devices("cpu")[0]):
        a, b = (jax.random.normal(jax.random.key(i), (SIDE, SIDE)).astype(dtype) for i in range(2))
        x, y = (jnp.ones(LENGTH) for _ in range(2))
        flops = 2 * SIDE**3 / _least_s(jax.jit(jnp.dot, compiler_options=compiler_options(dtype)), a, b)
        memory = 3 * x.nbytes / _least_s(jax.jit(jnp.add), x, y)
    return Chip(
        "cpu",
        "cpu",
        flops,
        flops,
        available_bytes() or math.inf,
        memory,
        memory,
        math.inf,
        0,
        "measured here, just now",
    )


def _least_s(function: Callable[..., Any], *arguments: Any) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return min(times)
