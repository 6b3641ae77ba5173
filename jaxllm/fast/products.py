"""Matrix products by XLA, or by the library that a context names: `with using("onednn"): step(...)`.

Products inside functions with a backward of their own go through `product`. XLA folds a transposed operand into a copy;
a BLAS reads it as it lies. As `jaxllm.fast.off`, the choice is part of the key under which `jax.jit` keeps a trace.
"""

from contextlib import AbstractContextManager
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxllm.array import Array
from jaxllm.fast.native.build import TARGET, register
from jaxllm.fast.native.libraries import LIBRARIES
from jaxllm.fast.platform import on_one_cpu

XLA = "xla"
_active: Any = jax.make_user_context(XLA)


def using(name: str) -> AbstractContextManager[None]:
    """A context in which `product` calls a library: "xla", "onednn", "mkl" or "openblas".

    A library computes float32, oneDNN bfloat16 too; XLA computes the rest, and everything on other backends than a CPU.
    The gradients that are traced in the context call it; a second derivative cannot be taken through them. Raises
    NoLibraryError where the library cannot be used here.
    """
    if name != XLA:
        register(name)
    return cast(AbstractContextManager[None], _active(name))


def active() -> str:
    """The library that the context names."""
    return cast(str, _active.value)


def computes(name: str, *operands: Array) -> bool:
    """Whether a library computes a product of these operands."""
    dtype = operands[0].dtype
    return (
        name != XLA
        and on_one_cpu()
        and all(x.dtype == dtype and x.size for x in operands)
        and dtype.name in LIBRARIES[name].dtypes
    )  # fmt: skip


def product(axes: str, a: Array, b: Array, dtype: DTypeLike | None = None) -> Array:
    """`jnp.einsum(axes, a, b, preferred_element_type=dtype)` for products of two matrices, or of batches of them.

    An ellipsis stands for rows, or for the axes of a batch: "...d,df->...f", "...d,...f->df", "...tk,...sk->...ts". A
    batch may have a letter: "ntk,nsk->nts".
    """
    dtype = jnp.dtype(dtype or a.dtype)
    if not computes(active(), a, b) or dtype not in (a.dtype, jnp.float32):
        return jnp.einsum(axes, a, b, preferred_element_type=dtype)
    left, right, out = (part.replace("...", "")[-2:] for part in axes.replace("->", ",").split(","))
    if not _fit(a, b, left, right, out):
        return jnp.einsum(axes, a, b, preferred_element_type=dtype)  # it broadcasts, or says what does not fit
    n = b.shape[right.index(out[-1]) - len(right)]
    if len(left) == 2:
        shape = (*a.shape[:-2], a.shape[left.index(out[0]) - 2], n)
        a, b = (x.reshape(-1, *x.shape[-2:]) if x.ndim > 3 else x for x in (a, b))
    else:  # every axis of a but the last is one axis r of rows
        shape = (*a.shape[:-1], n) if len(out) == 1 else (a.shape[-1], n)
        a, b = a.reshape(-1, a.shape[-1]), b.reshape(-1, b.shape[-1])
        left, right, out = "r" + left, right.rjust(2, "r"), out.rjust(2, "r")
    return _call(a, b, left[0] != out[0], right[1] != out[1], dtype).reshape(shape)


def _fit(a: Array, b: Array, left: str, right: str, out: str) -> bool:
    """Whether the sizes that a product sums over are equal, and those of a batch."""
    if len(left) == len(right) == 1:
        return a.shape[:-1] == b.shape[:-1]
    (summed,) = set(left) & set(right) - set(out)
    equal = a.shape[left.index(summed) - len(left)] == b.shape[right.index(summed) - len(right)]
    return equal and (a.shape[:-2] == b.shape[:-2] or len(left) == 1)


def _call(a: Array, b: Array, transpose_a: bool, transpose_b: bool, dtype: Any) -> Array:
    m, n = a.shape[-1 if transpose_a else -2], b.shape[-2 if transpose_b else -1]
    result = jax.ShapeDtypeStruct((*a.shape[:-2], m, n), dtype)
    how = {"library": LIBRARIES[active()].number, "transpose_a": transpose_a, "transpose_b": transpose_b}
    call = jax.ffi.ffi_call(TARGET, result, vmap_method="broadcast_all")
    return call(a, b, **{name: np.int64(x) for name, x in how.items()})
