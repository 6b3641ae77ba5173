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
    """The parameters in a file, which must have the names and shapes of `params`; otherwise the process ends."""
    expected = {name: leaf.shape for name, leaf in flatten_dict(params, sep="/").items()}
    with np.load(path, allow_pickle=False) as file:
        # A copy, which the step may overwrite: `jnp.asarray` may share the memory of an array of NumPy.
        loaded = {name: jnp.array(file[name]) for name in file.files}
    found = {name: leaf.shape for name, leaf in loaded.items()}
    if found != expected:
        differ = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise SystemExit(f"the other side's parameters have other names or shapes: {', '.join(differ)}")
    return unflatten_dict(loaded, sep="/")
