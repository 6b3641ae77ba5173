"""Batches prepared ahead of the training loop, in a thread.

The thread draws a batch and starts its transfer to the device while the loop waits for the metrics of a step. The
batches are the same as without the thread, because a batch depends on nothing but its step.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import NamedTuple

from jax import Array
from jax.sharding import Mesh

from jaxllm.data.windows import Ids

from .parallel.placing import put_batch

AHEAD = 2  # batches prepared while one is in use

MakeBatch = Callable[[int], tuple[Ids, Ids]]


class Batch(NamedTuple):
    """A training step's batch, on the device or being transferred to it."""

    step: int  # from 0
    inputs: Array  # [B, T]
    targets: Array  # [B, T]
    waited_s: float  # seconds that the loop waited for it


@contextmanager
def prefetched(make_batch: MakeBatch, steps: range, mesh: Mesh | None = None) -> Iterator[Iterator[Batch]]:
    """Yields an iterator over the batches `make_batch(step)` of all steps, in order, on the devices of the mesh.

    An error of `make_batch` is raised where its batch is asked for. Leaving the context ends the thread. The thread
    only ever works on one batch, which takes a moment, so it cannot keep the program from ending.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        yield _batches(pool, make_batch, steps, mesh)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(pool: ThreadPoolExecutor, make_batch: MakeBatch, steps: range, mesh: Mesh | None) -> Iterator[Batch]:
    def prepare(step: int) -> tuple[Array, ...]:
        return put_batch(mesh, *make_batch(step))

    ahead: deque[Future[tuple[Array, ...]]] = deque()
    rest = iter(steps)
    for step in steps:
        ahead.extend(pool.submit(prepare, later) for later in islice(rest, AHEAD + 1 - len(ahead)))
        start = time.perf_counter()
        inputs, targets = ahead.popleft().result()
        yield Batch(step, inputs, targets, time.perf_counter() - start)
