"""The size of each block's gradient and update, recorded at each step: train.metrics."""

import optax


def layer_norms(params, grads, updates):
    blocks = [name for name in params if name.startswith("block_")]
    gradients = {f"grad_{name}": optax.tree.norm(grads[name]) for name in blocks}
    return gradients | {f"update_{name}": optax.tree.norm(updates[name]) for name in blocks}
