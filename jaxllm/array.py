"""The arrays that functions take: JAX's, or NumPy's, which JAX converts. Static type checkers see `jax.Array`."""

from typing import TYPE_CHECKING

import jax
import numpy as np

if TYPE_CHECKING:
    from jax import Array as Array
else:
    Array = jax.Array | np.ndarray
