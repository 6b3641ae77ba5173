"""The weights that both sides of a bench start from, in a file."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from .peers.protocol import Job


def share_weights(params: Any, job: Job) -> tuple[Any, float]:
    """The parameters to start from, and the seconds that the files took.

    They are `params`, saved to the file job["save_weights"] unless it is None, or those of job["load_weights"].
    """
    start = time.perf_counter()
    if job["save_weights"]:
        np.savez(job["save_weights"], **jax.device_get(flatten_dict(params, sep="/")))
    if job["load_weights"]:
        params = _load(params, job["load_weights"])
    return params, time.perf_counter() - start


def _load(params: Any, path: str) -> Any:
    """The parameters in a file, which must have the names and shapes of `params`; otherwise the process ends.

    Equal ones stay where they are. A side whose parameters lie elsewhere in memory than those of a run, which the step
    overwrites in place, is faster or slower by a few percent.
    """
    own = flatten_dict(params, sep="/")
    with np.load(path, allow_pickle=False) as file:
        loaded = {name: _chosen(own.get(name), file[name]) for name in file.files}
    differ = [name for name in loaded.keys() | own.keys() if _shape(loaded, name) != _shape(own, name)]
    if differ:
        raise SystemExit(f"the other side's parameters have other names or shapes: {', '.join(sorted(differ))}")
    return unflatten_dict(loaded, sep="/")


def _chosen(own: Any, value: np.ndarray) -> Any:
    # A copy, because `jnp.asarray` may share the memory of an array of NumPy.
    return own if own is not None and np.array_equal(own, value) else jnp.array(value)


def _shape(params: dict[str, Any], name: str) -> tuple[int, ...] | None:
    return params[name].shape if name in params else None
