"""What all processes of a run must do in the same step, although one of them learns of it: end, and follow the clock.

A signal reaches one process, and clocks differ. So each step computes the largest of the numbers that the processes
give; only process 0 gives the time. It is read a step later, so that an accelerator does not wait for it. Each batch of
an evaluation does the same, so that all abandon it at the same batch.
"""

import signal
from collections.abc import Callable

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..runtime.signals import Stop


class Agreement:
    """What a run by one process agrees on: whatever that process says."""

    by_one = True

    def __init__(self, stop: Stop) -> None:
        """`stop` is set by the signals that this process gets."""
        self.stop = stop  # of all processes

    def seconds(self, mine: float) -> float:
        """How long the run has trained, and whether it is to stop. To be called once a step."""
        return mine

    def is_ending(self) -> bool:
        """Whether the run is to stop. To be called once a batch of an evaluation."""
        return bool(self.stop)

    def schedule_step(self, mine: int) -> int:
        """The step of the schedule. To be called once a step."""
        return mine


class AgreementOfAll(Agreement):
    """As Agreement, for several processes. What it returns is what was said in the call before."""

    by_one = False

    def __init__(self, stop: Stop) -> None:
        super().__init__(Stop())
        self._own, self._leads = stop, jax.process_index() == 0
        self._ending, self._evaluating, self._schedule = largest_of_all(), largest_of_all(), largest_of_all()
        self.seconds(0.0)

    def seconds(self, mine: float) -> float:
        by, seconds = self._ending(self._own.by or 0, mine if self._leads else 0)
        self._stop(by)
        return float(seconds)

    def is_ending(self) -> bool:
        self._stop(*self._evaluating(self._own.by or 0))
        return bool(self.stop)

    def _stop(self, by: float) -> None:
        if by:
            self.stop.by = signal.Signals(int(by))

    def schedule_step(self, mine: int) -> int:
        return int(self._schedule(mine if self._leads else 0)[0])


def agreement(stop: Stop) -> Agreement:
    """What the processes of this run agree on."""
    return AgreementOfAll(stop) if jax.process_count() > 1 else Agreement(stop)


def largest_of_all() -> Callable[..., np.ndarray]:
    """A function of numbers that returns the largest of each in all processes, float32 [N], of the call before.

    All processes call it alike. The first call returns its own.
    """
    mesh = Mesh(np.array(jax.devices()), ("all",))
    each, whole = NamedSharding(mesh, PartitionSpec("all")), NamedSharding(mesh, PartitionSpec())
    largest = jax.jit(lambda x: x.max(0), out_shardings=whole)
    before: list[Array] = []

    def call(*mine: float) -> np.ndarray:
        row = np.array([mine], np.float32)
        before.append(largest(jax.make_array_from_callback((mesh.size, len(mine)), each, lambda _: row)))
        return np.asarray(before.pop(0) if len(before) > 1 else before[0])

    return call
