import jax.numpy as jnp


def add_learned_positions(x, table):
    return x + table[: x.shape[-2]]


def sinusoidal_positions(length, d_model):
    angle = jnp.arange(length)[:, None] / 10000.0 ** (jnp.arange(0, d_model, 2) / d_model)
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, d_model)
