"""Products of a few rows with weights, as generation computes them for each token, at the speed of the memory.

XLA on a CPU computes small products on one core, and those of 2 to 16 rows by code that is made for many. It casts
bfloat16 weights in memory. In a context of `compiled()`, on a system with a C compiler, `rows_product` calls
`native/few_rows.c`, else XLA. As `jaxllm.fast.off`, the choice is part of the key under which `jax.jit` keeps a trace.
"""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxllm.array import Array
from jaxllm.fast.native.build import FEW_ROWS, register_few_rows
from jaxllm.fast.native.libraries import NoLibraryError
from jaxllm.fast.platform import on_one_cpu

MOST_ROWS = 16
IN_C = {("float32", "float32", "float32"), ("float32", "bfloat16", "float32"), ("int8", "int8", "int32")}
_compiled: Any = jax.make_user_context(False)


def compiled() -> AbstractContextManager[None]:
    """A context in which `rows_product` calls C code; no effect without a CPU or a compiler.

    The code has no derivative. It is compiled when it is first asked for.
    """
    if not on_one_cpu():
        return nullcontext()
    try:
        register_few_rows()
    except NoLibraryError:
        return nullcontext()
    return cast(AbstractContextManager[None], _compiled(True))


def why_not_compiled() -> str:
    """What keeps a system that could have the C code from it; "" if nothing does, or if no code is for this system."""
    try:
        if on_one_cpu() and sys.platform == "linux":
            register_few_rows()
    except NoLibraryError as error:
        return str(error)
    return ""


def in_c(x: DTypeLike, weights: DTypeLike, dtype: DTypeLike) -> bool:
    """Whether the C code has products of these dtypes, of operands and result, and the context calls it."""
    return _compiled.value and (jnp.dtype(x).name, jnp.dtype(weights).name, jnp.dtype(dtype).name) in IN_C


def rows_product(x: Array, weights: Array, dtype: DTypeLike | None = None) -> Array:
    """x [..., D] times the transpose of weights [F, D]: [..., F] in `dtype`, that of x if it is not given.

    float32 with weights of bfloat16 accumulates in float32; int8 needs the dtype int32, and is exact.
    """
    dtype = jnp.dtype(dtype or x.dtype)
    n_rows = int(np.prod(x.shape[:-1]))
    if not (in_c(x.dtype, weights.dtype, dtype) and 1 <= n_rows <= MOST_ROWS):
        return _by_xla(x, weights, dtype)
    out = jax.ShapeDtypeStruct((n_rows, len(weights)), dtype)
    y = jax.ffi.ffi_call(FEW_ROWS, out, vmap_method="sequential")(x.reshape(n_rows, -1), weights)
    return y.reshape(*x.shape[:-1], -1)


def _by_xla(x: Array, weights: Array, dtype: DTypeLike) -> Array:
    if x.dtype != jnp.int8:
        return jnp.einsum("...d,fd->...f", x, weights, preferred_element_type=dtype)
    rows = x.reshape(-1, x.shape[-1])
    n = len(rows)
    if n == 1:  # XLA on a CPU has fast integer products of matrices, but none of a vector
        rows = jnp.concatenate([rows, jnp.zeros_like(rows)])
    y = jnp.einsum("nd,fd->nf", rows, weights, preferred_element_type=dtype)[:n]
    return y.reshape(*x.shape[:-1], -1)
