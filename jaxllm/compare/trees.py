"""Pytrees of arrays: their leaves by name, and the same numbers in another dtype."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def is_float(x: Any) -> bool:
    """Whether `x` is an array of floats. A Python number is not."""
    return isinstance(x, np.ndarray | np.floating | jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def to_numpy(tree: Any) -> Any:
    """The tree with its arrays as NumPy arrays, floats in float64.

    They are copies: a reference that changes its arguments in place changes nothing else. Keys of `jax.random` and
    leaves that are not arrays stay as they are.
    """

    def convert(x: Any) -> Any:
        if is_float(x):
            return np.array(x, np.float64)
        return np.array(x) if isinstance(x, jax.Array) and not jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x

    return jax.tree.map(convert, tree)


def in_dtype(tree: Any, dtype: str) -> Any:
    """The tree with floats in `dtype` and, for float64, integers in int64: Optax raises beta to a counter's power."""

    def convert(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(x, dtype)
        return jnp.asarray(x, "int64" if dtype == "float64" else x.dtype)

    return jax.tree.map(convert, tree)


def named_leaves(tree: Any, root: str = "") -> dict[str, Any]:
    """The leaves of a pytree by path, such as `block_0/norm_1/scale`; dicts, lists and tuples keep their own order."""
    if isinstance(tree, Mapping):
        items: Iterable[tuple[Any, Any]] = tree.items()
    elif isinstance(tree, list | tuple):
        items = enumerate(tree)
    elif jax.tree_util.all_leaves([tree]):
        return {root: tree}
    else:  # one level of any other registered node
        inside, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
        items = ((jax.tree_util.keystr(key, simple=True), node) for key, node in inside)
    return {path: x for key, inner in items for path, x in named_leaves(inner, f"{root}/{key}".lstrip("/")).items()}
