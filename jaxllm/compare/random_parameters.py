"""Random parameters for comparisons."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from jaxllm.gpt import GPT


def random_parameters(model: GPT, seed: int = 0) -> Any:
    """Float32 parameters of the GPT in which no leaf is constant, as a nested dict like that of `model.init`.

    At initialisation biases are 0 and scales are 1, which would hide an error in their use. Here kernels are
    N(0, 1 / fan-in), tables N(0, 1 / d_model), scales 1 + N(0, 0.1^2) and biases N(0, 0.1^2): activations keep about
    unit size through any number of layers, and so do logits, with a head or a tied table.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1), jnp.int32))["params"]

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> Array:
        z = rng.standard_normal(shape, np.float32)
        match path[-1]:
            case "kernel":
                z = z / shape[0] ** 0.5
            case "kernels":
                z = z / shape[1] ** 0.5
            case "table":
                z = z / shape[1] ** 0.5
            case "scale":
                z = 1 + 0.1 * z
            case "bias":
                z = 0.1 * z
        return jnp.asarray(z)

    return unflatten_dict({path: draw(path, leaf.shape) for path, leaf in flatten_dict(shapes).items()})
