import jax
import jax.numpy as jnp


def clip_gradients(gradients, limit):
    norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradients)))
    return jax.tree.map(lambda g: jnp.where(norm > limit, g * limit / norm, g), gradients)


def adamw_update(parameter, gradient, m, v, step, learning_rate, beta1, beta2, epsilon, weight_decay):
    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient**2
    direction = m / (1 - beta1**step) / (jnp.sqrt(v / (1 - beta2**step)) + epsilon)
    return parameter - learning_rate * (direction + weight_decay * parameter), m, v
