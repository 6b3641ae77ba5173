"""Work spread over processes, with the results in the order of the work.

`ProcessPoolExecutor.map` takes in all its input before it gives back the first result, which a corpus larger than
memory does not allow; here only a few pieces of work are under way at a time.
"""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from jaxllm.utils.errors import InputError

Work = TypeVar("Work")
Result = TypeVar("Result")
AHEAD = 2  # pieces of work under way for each process
MOST_PROCESSES = 1024


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_workers() -> int:
    """The most processes that a pool may have: on Windows 61, the limit of `ProcessPoolExecutor` there."""
    return 61 if sys.platform == "win32" else MOST_PROCESSES


def check_processes(processes: int) -> None:
    """Raises InputError for a number below 1 or absurdly high."""
    if not 1 <= processes <= MOST_PROCESSES:
        raise InputError(
            f"processes is {processes}, but it must be from 1 to {MOST_PROCESSES:,}; this machine has {usable_cores()}."
        )


def in_processes(
    function: Callable[[Work], Result],
    work: Iterable[Work],
    processes: int,
    initializer: Callable[..., Any] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """`map(function, work)` in that many processes, each of which first calls `initializer(*arguments)`.

    With 1 all is done in this one. New processes import what they need and nothing else (`spawn`), since a fork of one
    that has started JAX's threads may hang; a script that asks for more than one needs `if __name__ == "__main__":`.
    Raises what the function raises, and InputError when a process is killed, as by a lack of memory.
    """
    if processes == 1:
        if initializer:
            initializer(*arguments)
        yield from map(function, work)
        return
    pool = ProcessPoolExecutor(min(processes, most_workers()), get_context("spawn"), _begin, (initializer, arguments))
    try:
        yield from _ordered(pool, function, iter(work), AHEAD * processes)
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed or could not start; with too little memory for "
            f"{processes} processes, ask for fewer."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _ordered(
    pool: ProcessPoolExecutor, function: Callable[[Work], Result], work: Iterator[Work], ahead: int
) -> Iterator[Result]:
    under_way: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(work, ahead))
    while under_way:
        done = under_way.popleft().result()
        under_way.extend(pool.submit(function, item) for item in islice(work, 1))
        yield done


def _begin(initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is for the parent, which ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer:
        initializer(*arguments)


def _end_with_parent() -> None:
    """Processes whose parent is killed would wait for work for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
