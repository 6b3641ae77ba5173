"""Batches prepared ahead in a thread: the same batches in the same order, and the thread ends with its context."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from jaxllm.data import batch
from train.prefetch import AHEAD, prefetched

pytestmark = [pytest.mark.usefixtures("quick_compilation"), pytest.mark.newest]

IDS = np.arange(1000, dtype=np.int32) % 97


def make(step: int) -> tuple[np.ndarray, np.ndarray]:
    return batch(IDS, 8, 4, 1, step)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("steps", [range(0, 40), range(7, 40), range(5, 6), range(5, 5)], ids=str)
def test_the_batches_are_those_of_direct_calls(steps: range) -> None:
    with prefetched(make, steps) as batches:
        seen = list(batches)
    assert [b.step for b in seen] == list(steps)
    for b in seen:
        inputs, targets = make(b.step)
        assert b.inputs.dtype == b.targets.dtype == inputs.dtype
        np.testing.assert_array_equal(b.inputs, inputs)
        np.testing.assert_array_equal(b.targets, targets)


def test_it_prepares_ahead_but_not_all() -> None:
    """The consumer waits until the next batches are prepared, which without a thread would never happen."""
    made: list[int] = []
    there = [threading.Event() for _ in range(20)]

    def counted(step: int) -> tuple[np.ndarray, np.ndarray]:
        made.append(step)
        there[step].set()
        return make(step)

    with prefetched(counted, range(20)) as batches:
        assert made == []  # nothing is drawn before the first is asked for
        for b in batches:
            assert there[min(b.step + AHEAD, 19)].wait(timeout=60)
            time.sleep(0.01)  # enough to make another one
            assert made == list(range(min(b.step + AHEAD + 1, 20)))


def test_waiting_is_measured() -> None:
    def slow(step: int) -> tuple[np.ndarray, np.ndarray]:
        time.sleep(0.05)
        return make(step)

    start = time.perf_counter()
    with prefetched(slow, range(4)) as batches:
        waited = sum(b.waited_s for b in batches)
    assert 0.15 < waited <= time.perf_counter() - start  # each takes 0.05, and nothing else is done


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_thread_arrives_where_its_batch_is_asked_for(error: type[BaseException]) -> None:
    def failing(step: int) -> tuple[np.ndarray, np.ndarray]:
        if step == 3:
            raise error("at 3")
        return make(step)

    arrived = []
    with pytest.raises(error, match="at 3"), prefetched(failing, range(10)) as batches:
        for b in batches:
            arrived.append(b.step)
    assert arrived == [0, 1, 2]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_thread_ends_with_its_consumer(error: type[BaseException]) -> None:
    with prefetched(make, range(1000)) as batches:
        next(batches)
    with pytest.raises(error), prefetched(make, range(1000)) as batches:
        next(batches)
        raise error


def test_a_program_that_never_leaves_the_context_ends_all_the_same() -> None:
    code = """
import time
def make(step): time.sleep(0.1); return [[step]], [[step]]
from train.prefetch import prefetched
context = prefetched(make, range(10**9))
next(context.__enter__())
raise KeyboardInterrupt
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "KeyboardInterrupt" in ended.stderr and ended.returncode != 0
