"""The learning rate of each step: a linear warm-up, then one of four schedules. `config` is an OptimizerConfig."""

import math
from typing import Any


def learning_rate(config: Any, steps: int, step: int) -> float:
    """The learning rate of step 0, 1, ..., `steps` - 1: a linear warm-up, then the schedule named `config.schedule`.

    The warm-up begins at lr / (warmup + 1) and not at 0, as in nanoGPT's train.py.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    return SCHEDULES[config.schedule](config, steps, step)


def cosine(config: Any, steps: int, step: int) -> float:
    """Half a cosine wave down to the minimum. Loshchilov and Hutter 2017, equation 5, without restarts."""
    highest, lowest, warmup = config.learning_rate, config.min_learning_rate, config.warmup_steps
    progress = min((step - warmup) / (steps - warmup), 1)
    return lowest + (highest - lowest) * (1 + math.cos(math.pi * progress)) / 2


def linear(config: Any, steps: int, step: int) -> float:
    """A straight line down to the minimum."""
    return straight_down(config, config.warmup_steps, steps, step)


def wsd(config: Any, steps: int, step: int) -> float:
    """Warm-up, stable, decay: constant, then a straight line down over the last `config.decay_share` of the steps.

    Hu et al. 2024, section 4.2, whose decay is exponential; Hägele et al. 2024, section 4, compare its shapes.
    """
    return straight_down(config, steps * (1 - config.decay_share), steps, step)


def constant(config: Any, steps: int, step: int) -> float:
    """Always the same."""
    return float(config.learning_rate)


def straight_down(config: Any, begin: float, end: int, step: int) -> float:
    """The rate on a line from `learning_rate` at step `begin` to `min_learning_rate` at step `end`, flat outside."""
    done = min(max((step - begin) / (end - begin), 0), 1)
    return float(config.learning_rate + (config.min_learning_rate - config.learning_rate) * done)


SCHEDULES = {"cosine": cosine, "wsd": wsd, "linear": linear, "constant": constant}  # by `optimizer.schedule`
