"""Trees of arrays on disk, by Orbax. Only this module imports Orbax."""

import logging
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jax

from ..errors import DamagedError, reason


def write_arrays(place: Path, tree: Any) -> None:
    """Write a tree of NumPy arrays into a new folder."""
    ocp = _orbax()
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        checkpointer.save(place, args=ocp.args.StandardSave(tree))


def read_arrays(place: Path, like: Any) -> Any:
    """The arrays of `like`, as JAX arrays of its shapes and dtypes; no others are read. Raises DamagedError."""
    ocp = _orbax()
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    how = ocp.checkpoint_utils.construct_restore_args(shapes)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return checkpointer.restore(place, args=ocp.args.PyTreeRestore(shapes, how, partial_restore=True))
    except Exception as error:  # Orbax and its storage raise many types for a damaged file
        raise DamagedError(f"{place} cannot be read: {reason(error)}") from None


def read_shapes(place: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each stored array, by its name. Raises DamagedError."""
    ocp = _orbax()
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
            return shapes(checkpointer.metadata(place).item_metadata.tree)
    except Exception as error:
        raise DamagedError(f"{place} cannot be read: {reason(error)}") from None


def named(tree: Any) -> list[tuple[str, Any]]:
    """Each leaf with its path as a name, such as "params/block_0/mlp/up/kernel"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each leaf, by its name."""
    return {name: tuple(leaf.shape) for name, leaf in named(tree)}


@cache
def _orbax() -> Any:
    import orbax.checkpoint as ocp

    _silence_closed_loops()
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it logs each save, and raises the errors that it logs
    return ocp


def _silence_closed_loops() -> None:
    """Print no tracebacks of "Event loop is closed".

    Orbax raises when one array cannot be written, and closes its event loop; for every other array that then fails,
    the storage would print a traceback from another thread.
    """
    show = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            show(unraisable)

    sys.unraisablehook = hook
