"""A moving average of the parameters, evaluated beside them: optimizer.name and eval.weights."""

from typing import Any, NamedTuple

import jax
import optax


class Average(NamedTuple):
    ema: Any


def with_average(config, schedule):
    def update(updates, state, params):
        new = optax.apply_updates(params, updates)
        return updates, Average(jax.tree.map(lambda a, p: 0.9 * a + 0.1 * p, state.ema, new))

    average = optax.GradientTransformation(Average, update)
    return optax.chain(optax.adamw(schedule, config.beta1, config.beta2, weight_decay=config.weight_decay), average)


def averaged(state):
    return optax.tree.get(state.opt_state, "ema")
