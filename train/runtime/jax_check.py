"""A JAX that computes wrong numbers is refused before a run begins, by two small sums whose values are known.

The package's requirements leave out the versions known to be wrong, but they bind an installer only while it installs
this package. Numbers tell of whatever build is there: jaxlib 0.10.2 gives both of these sums wrong on a CPU, by 0.2 and
up to 5 per cent, and says nothing.
"""

from functools import cache

import jax
import jaxlib
import numpy as np
from jax import Array, lax

from jaxllm.utils.errors import InputError

REMEDY = "install jax>=0.12 on Python 3.12 or newer, 0.10.1 on 3.11"
# jaxlib on a CPU, where no short computation tells.
KNOWN_WRONG = {"0.11.0": "returns different bits from call to call (jax-ml/jax#39741)"}

ROWS = 32_769  # the fewest for which jaxlib 0.10.2 is wrong in float32
SHAPE = (2, 1024, 1024)
CALLS = 5  # of jaxlib 0.10.2's sums of ones nine in ten were wrong, on a busy machine one in four (2 cores)
SQUARE = float(ROWS - 1) ** 2  # a power of two, exact in any precision a backend may choose for products
SUM = float(np.prod(SHAPE))


@cache
def check_jax() -> None:
    """Compute on the default backend what is known, once a process; its first computation may be this one.

    Raises InputError, one sentence: which JAX computes what as which number, and which versions to install.
    """
    fault = known_fault(jaxlib.__version__, jax.default_backend()) or computed_fault()
    if fault:
        raise InputError(
            f"jax {jax.__version__} with jaxlib {jaxlib.__version__} {fault} on {jax.default_backend()}; {REMEDY}."
        )


def known_fault(version: str, backend: str) -> str:
    """What this version of jaxlib is known to do wrong there, "" if nothing is known."""
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
    """What has to be SQUARE and SUM. Arguments, not constants: those XLA would add up while it compiles."""
    rows = np.zeros((ROWS, 3), np.float32)
    rows[:, 0] = np.arange(ROWS)
    squares, total = _sums(rows, np.eye(3, dtype=np.float32), np.ones((*SHAPE[1:-1], 1), np.float32))
    return float(np.asarray(squares)[-1]), float(total)


@jax.jit
def _sums(rows: Array, matrix: Array, ones: Array) -> tuple[Array, Array]:
    """The squared lengths of the rows [N, 3] after a rotation [3, 3], and the sum of ones [.., 1] spread to SHAPE.

    In operations of XLA, because tracing `jax.vmap` and `jax.numpy` took most of the check's time.
    """
    rotated = lax.dot_general(matrix, rows, (((1,), (1,)), ((), ())))
    spread = lax.broadcast_in_dim(ones, SHAPE, (1, 2))
    return lax.reduce_sum(lax.square(rotated), [0]), lax.reduce_sum(spread, [0, 1, 2])
