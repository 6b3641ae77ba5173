"""Muon (Jordan et al. 2024) and a schedule of warm-up, stable, decay (Hu et al. 2024): optimizer.name and schedule."""

import jax.numpy as jnp
import optax


def muon(config, schedule):
    return optax.contrib.muon(schedule, weight_decay=config.weight_decay)


def wsd(config, steps):
    def rate(step):
        rising, falling = (step + 1) / (config.warmup_steps + 1), (steps - step) / (0.2 * steps)
        return config.learning_rate * jnp.minimum(1, jnp.minimum(rising, falling))

    return rate
