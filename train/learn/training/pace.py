"""How long a learner's function takes in a training: a loop over every number may take minutes a step.

A smaller call is measured, because a whole one might not end; the work of a loop grows as the number of its products.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from .bridge import IN_MODEL, Bridge
from .callbacks import Called
from .trials import MEASURED, RATIO, trial

MOST_SECONDS = 2.0  # of a call, of which a step makes one to three
PARAMETERS = 110_000  # of the model of `.training`


def too_slow(bridge: Bridge, name: str) -> str:
    """How long a call of a piece would take in a training, where that is too long; else empty, as for JAX."""
    if bridge.language == "jax":
        return ""
    seconds = _of_update(bridge) if name == "training_step" else _of_call(getattr(bridge.parts, IN_MODEL[name]))
    return f"right, but a call in this training would take about {seconds:.0f} s" if seconds > MOST_SECONDS else ""


def _of_call(called: Called) -> float:
    arguments = trial(called.name, MEASURED)
    like = called.ours(*arguments)
    return _shortest(lambda: called.value(arguments, like.shape, like.dtype)) * RATIO


def _of_update(bridge: Bridge) -> float:
    size = 48
    p, g, m, v = (bridge.arrays.array(np.ones((size, size))) for _ in range(4))
    update = bridge.functions["training_step"]["adamw_update"]
    return _shortest(lambda: update(p, g, m, v, 1, 1e-3, 0.9, 0.99, 1e-8, 0.1)) * PARAMETERS / size**2


def _shortest(call: Callable[[], Any]) -> float:
    """The shortest of some times, because the first call and a busy machine are slower."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
