"""Refuse a JAX that computes wrong numbers before a run begins, by two small sums whose values are known.

The package's requirements exclude the versions known to be wrong, but an installer may replace JAX later. The sums test
the build that is installed: jaxlib 0.10.2 silently computes both of them wrong on a CPU.
"""

from functools import cache

import jax
import jaxlib
import numpy as np
from jax import Array, lax

from jaxllm.utils.errors import InputError

REMEDY = "install jax>=0.12 on Python 3.12 or newer, 0.10.1 on 3.11"
# jaxlib on a CPU, for faults that no short computation shows.
KNOWN_WRONG = {"0.11.0": "returns different bits from call to call (jax-ml/jax#39741)"}

ROWS = 32_769  # the fewest rows for which jaxlib 0.10.2 is wrong in float32
SHAPE = (2, 1024, 1024)
CALLS = 5  # jaxlib 0.10.2's sum of ones is wrong in some calls only
SQUARE = float(ROWS - 1) ** 2  # a power of two, exact in any precision a backend may choose for products
SUM = float(np.prod(SHAPE))


@cache
def check_jax() -> None:
    """Compute the two sums on the default backend, once per process. It may be the first computation of JAX.

    Raises InputError that names the versions, the wrong number, and the versions to install.
    """
    fault = known_fault(jaxlib.__version__, jax.default_backend()) or computed_fault()
    if fault:
        raise InputError(
            f"jax {jax.__version__} with jaxlib {jaxlib.__version__} {fault} on {jax.default_backend()}; {REMEDY}."
        )


def known_fault(version: str, backend: str) -> str:
    """What this version of jaxlib is known to compute wrong on that backend, "" if nothing is known."""
    return KNOWN_WRONG.get(version, "") if backend == "cpu" else ""


def computed_fault() -> str:
    """Which of the two sums is wrong, and how; "" if both are right in every call."""
    for _ in range(CALLS):
        square, total = compute()
        if square != SQUARE:
            return f"computes the square of {ROWS - 1} as {square:.0f}, not {SQUARE:.0f} (jax-ml/jax#39103),"
        if total != SUM:
            return f"computes the sum of {SUM:.0f} ones as {total:.0f} (tensorflow/tensorflow#126812)"
    return ""


def compute() -> tuple[float, float]:
    """The values that must be SQUARE and SUM. The arrays are arguments, because XLA would fold constants."""
    rows = np.zeros((ROWS, 3), np.float32)
    rows[:, 0] = np.arange(ROWS)
    squares, total = _sums(rows, np.eye(3, dtype=np.float32), np.ones((*SHAPE[1:-1], 1), np.float32))
    return float(np.asarray(squares)[-1]), float(total)


@jax.jit
def _sums(rows: Array, matrix: Array, ones: Array) -> tuple[Array, Array]:
    """The squared lengths of the rows [N, 3] after a rotation [3, 3], and the sum of ones [.., 1] spread to SHAPE.

    Written in operations of XLA, because tracing `jax.vmap` and `jax.numpy` takes longer than the computation.
    """
    rotated = lax.dot_general(matrix, rows, (((1,), (1,)), ((), ())))
    spread = lax.broadcast_in_dim(ones, SHAPE, (1, 2))
    return lax.reduce_sum(lax.square(rotated), [0]), lax.reduce_sum(spread, [0, 1, 2])
