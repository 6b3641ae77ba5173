"""This machine as a chip: its peaks, measured briefly.

Its products of small matrices are slower than those of large ones. So products of square matrices of several sizes are
measured, as many at a time as a layer has heads and rows, and any product runs at the speed of the squares with as many
operations per element: a product of m x k by k x n has 2 / (1/m + 1/k + 1/n), one of squares 2/3 of a side.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..runtime.memory import available_bytes
from ..step import compiler_options
from .chips import Chip, Curve

SIDES = (32, 64, 128, 256, 512, 1024, 2048)  # of the matrices
ELEMENTS, FLOPS = 2**21, 2**30  # at most in a batch of small matrices
LENGTH = 2**23  # of the vectors, longer than the arrays of most steps on a CPU
ROUNDS = 8


def this_machine(dtype: str) -> Chip:
    """The CPU: the best of some products of square matrices of each size, and of some sums of two long vectors."""
    with jax.default_device(jax.devices("cpu")[0]):
        product = jax.jit(jnp.matmul, compiler_options=compiler_options(dtype))
        squares = [_squares(side, dtype) for side in SIDES]
        vectors = [jnp.ones(LENGTH) for _ in range(2)]
        *seconds, of_sum = _least_s([*((product, (each, each)) for each in squares), (jax.jit(jnp.add), vectors)])
    rates = [2 * each.size * each.shape[-1] / s for each, s in zip(squares, seconds, strict=True)]
    flops, memory = max(rates), 3 * vectors[0].nbytes / of_sum
    return Chip(
        "cpu", "cpu", flops, flops, available_bytes() or math.inf, memory, memory, math.inf, 0,
        "measured here, just now",
        reached=Curve(tuple(2 * side / 3 for side in SIDES), tuple(rate / flops for rate in rates)),
    )  # fmt: skip


def _squares(side: int, dtype: str) -> jax.Array:
    many = max(min(ELEMENTS // side**2, FLOPS // (2 * side**3)), 1)
    return jax.random.normal(jax.random.key(side), (many, side, side)).astype(dtype)


def _least_s(calls: list[tuple[Callable[..., Any], Any]]) -> list[float]:
    """The least seconds of each call. They take turns, so that what disturbs a moment disturbs none each time."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(1 + ROUNDS):
        for (function, arguments), taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            taken.append(time.perf_counter() - start)
    return [min(taken[1:]) for taken in times]
