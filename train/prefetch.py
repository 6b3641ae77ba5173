"""Batches prepared ahead of the training loop, in a thread of their own.

The thread draws a batch and starts its transfer to the device while the loop waits for the metrics of a step. What it
yields is what the same calls one after the other would have given: a step's batch depends on nothing but the step.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

import jax
from jax import Array

from jaxllm.data.windows import Ids

AHEAD = 2  # batches prepared while one is in use

Make = Callable[[int], tuple[Ids, Ids]]


class Fed(NamedTuple):
    """A training step's batch, on the device or on its way there."""

    step: int  # from 0
    inputs: Array  # [B, T]
    targets: Array  # [B, T]
    waited_s: float  # seconds for which the loop had to wait for it


@contextmanager
def feed(make: Make, steps: range) -> Iterator[Iterator[Fed]]:
    """Yields an iterator over the batches `make(step)` of all steps, in order.

    What `make` raises is raised where its batch is asked for. Leaving the context, for whatever reason, ends the
    thread; until then it only ever works on a batch, which takes a moment, so it cannot keep the program from ending.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        yield _batches(pool, make, steps)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(pool: ThreadPoolExecutor, make: Make, steps: range) -> Iterator[Fed]:
    def prepare(step: int) -> tuple[Array, Array]:
        return jax.device_put(make(step))

    ahead: deque[Future[tuple[Array, Array]]] = deque()
    rest = iter(steps)
    for step in steps:
        ahead.extend(pool.submit(prepare, later) for later in islice(rest, AHEAD + 1 - len(ahead)))
        start = time.perf_counter()
        inputs, targets = ahead.popleft().result()
        yield Fed(step, inputs, targets, time.perf_counter() - start)
