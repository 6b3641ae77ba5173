"""In JAX."""

import jax


def gelu(x):
    return jax.nn.gelu(x, approximate=True)


def mlp(params, x):
    hidden = gelu(x @ params["up"]["kernel"] + params["up"]["bias"])
    return hidden @ params["down"]["kernel"] + params["down"]["bias"]
