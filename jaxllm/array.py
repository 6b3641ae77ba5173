"""The arrays that functions take: JAX's, or NumPy's, which JAX converts. Static type checkers see `jax.Array`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

if TYPE_CHECKING:
    from jax import Array as Array
else:
    Array = jax.Array | np.ndarray


class StoredKernel:
    """A kernel [D, F] that is no array: a leaf of the parameters that decides how `x @ kernel` is computed.

    The model has no case for it. Subclasses are frozen dataclasses that are registered as pytrees.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, F)."""
        raise NotImplementedError

    @property
    def dtype(self) -> Any:
        """The dtype of the floats."""
        raise NotImplementedError

    def astype(self, dtype: Any) -> Self:
        """The kernel with its floats in another dtype."""
        raise NotImplementedError

    def packed(self, pack: Callable[[Array], "StoredKernel"]) -> "StoredKernel":
        """The kernel for generation, in which `pack` has packed an array [D, F]; by default the kernel as it is."""
        return self

    def __rmatmul__(self, x: Array) -> Array:
        raise NotImplementedError
