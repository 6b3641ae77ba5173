import jax.numpy as jnp


def input_target_pairs(ids, context_length, stride):
    starts = range(0, len(ids) - context_length, stride)
    inputs = jnp.stack([ids[s : s + context_length] for s in starts])
    targets = jnp.stack([ids[s + 1 : s + 1 + context_length] for s in starts])
    return inputs, targets
