"""The tolerances of each dtype, and JAX configured to compute in it."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxllm.utils.errors import InputError

# (value, gradient) of a function or a layer, relative to the largest value of each tensor.
TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-5, 1e-5), "bfloat16": (3e-2, 3e-2)}
# The same for a whole model, where errors accumulate from layer to layer.
MODEL_TOLERANCES = {"float64": (1e-12, 1e-10), "float32": (1e-4, 1e-4), "bfloat16": (1e-1, 1.5e-1)}


@contextmanager
def arithmetic(dtype: str) -> Iterator[None]:
    """A context in which JAX can compute in `dtype`: float64 is enabled where `dtype` is float64.

    Matrix products of float32 are taken in full float32, not in TF32 as a GPU does by default. Raises InputError for a
    dtype without tolerances.
    """
    if dtype not in TOLERANCES:
        raise InputError(f"dtype is {dtype!r}; choose one of {', '.join(TOLERANCES)}.")
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        yield
