"""How long a learner's function takes in a training: a loop over every number may take minutes a step.

A smaller call is measured, because a whole one might not end; the work of a loop grows as the number of its products.
"""

import time

import numpy as np

from .bridge import IN_MODEL, Bridge
from .callbacks import Called
from .trials import MEASURED, RATIO, trial

MOST_SECONDS = 0.5  # of a call, of which a step makes one to three
PARAMETERS = 110_000  # of the model of `.training`


def too_slow(bridge: Bridge, name: str) -> str:
    """How long a call of a piece would take in a training, if that is too long; empty if not, and where XLA computes."""
    if bridge.language == "jax":
        return ""
    seconds = _of_update(bridge) if name == "training_step" else _of_call(getattr(bridge.parts, IN_MODEL[name]))
    return f"right, but a call in this training would take about {seconds:.0f} s" if seconds > MOST_SECONDS else ""


def _of_call(called: Called) -> float:
    arguments = trial(called.name, MEASURED)
    like = called.ours(*arguments)
    start = time.perf_counter()
    called.value(arguments, like.shape, like.dtype)
    return (time.perf_counter() - start) * RATIO


def _of_update(bridge: Bridge) -> float:
    size = 48
    p, g, m, v = (bridge.arrays.array(np.ones((size, size))) for _ in range(4))
    start = time.perf_counter()
    bridge.functions["training_step"]["adamw_update"](p, g, m, v, 1, 1e-3, 0.9, 0.99, 1e-8, 0.1)
    return (time.perf_counter() - start) * PARAMETERS / size**2
