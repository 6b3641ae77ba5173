"""Products of a few rows with weights, as generation computes them for each token, at the speed of the memory.

XLA on a CPU computes small products on one core, and those of 2 to 16 rows by code that is made for many. In a context
of `compiled()`, on a system with a C compiler, `rows_product` calls `native/few_rows.c`, else XLA. As
`jaxllm.fast.off`, the choice is part of the key under which `jax.jit` keeps a trace.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxllm.array import Array
from jaxllm.fast.native.build import FEW_ROWS, register_few_rows
from jaxllm.fast.native.libraries import NoLibraryError

MOST_ROWS = 16
_compiled: Any = jax.make_user_context(False)


def compiled() -> AbstractContextManager[None]:
    """A context in which `rows_product` calls C code; no effect without a CPU or a compiler.

    The code has no derivative. It is compiled when it is first asked for.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return nullcontext()
    try:
        register_few_rows()
    except NoLibraryError:
        return nullcontext()
    return cast(AbstractContextManager[None], _compiled(True))


def rows_product(x: Array, weights: Array, dtype: DTypeLike | None = None) -> Array:
    """x [..., D] times the transpose of weights [F, D]: [..., F] in `dtype`, that of x if it is not given."""
    dtype = jnp.dtype(dtype or x.dtype)
    n_rows = int(np.prod(x.shape[:-1]))
    if not (_compiled.value and x.dtype == weights.dtype == dtype == jnp.float32 and 1 <= n_rows <= MOST_ROWS):
        return jnp.einsum("...d,fd->...f", x, weights, preferred_element_type=dtype)
    out = jax.ShapeDtypeStruct((n_rows, len(weights)), dtype)
    y = jax.ffi.ffi_call(FEW_ROWS, out, vmap_method="sequential")(x.reshape(n_rows, -1), weights)
    return y.reshape(*x.shape[:-1], -1)
