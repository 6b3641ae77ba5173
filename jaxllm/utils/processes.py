"""Work spread over processes or threads, with the results in the order of the work.

`Executor.map` reads all its input before it returns the first result, which a corpus larger than memory does
not allow; here each process or thread has only a few pieces of work pending.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from jaxllm.utils.errors import InputError

Work = TypeVar("Work")
Result = TypeVar("Result")
PENDING = 2  # pieces of work for each process or thread
MOST_ON_WINDOWS = 61  # processes that Windows can wait for at once; ProcessPoolExecutor refuses more


def usable_cores() -> int:
    """Processor cores that this process may use; where the system has no such limit (macOS, Windows), all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_processes(processes: int) -> None:
    """Raises InputError for a number outside 1 to 1,024."""
    if not 1 <= processes <= 1024:
        raise InputError(
            f"processes is {processes}, but it must be from 1 to 1,024; this machine has {usable_cores()}."
        )


def in_processes(
    function: Callable[[Work], Result],
    work: Iterable[Work],
    processes: int,
    initializer: Callable[..., Any] | None = None,
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """`map(function, work)` in that many processes, each of which first calls `initializer(*arguments)`.

    With 1, everything runs in this process. On Windows there are at most MOST_ON_WINDOWS. New processes are started by
    `spawn`, since a fork of a process that has started JAX's threads may hang; a script that asks for more than one
    needs `if __name__ == "__main__":`.
    Raises what the function raises, and InputError when a process is killed, for example for lack of memory.
    """
    if processes == 1:
        if initializer:
            initializer(*arguments)
        yield from map(function, work)
        return
    processes = min(processes, MOST_ON_WINDOWS) if os.name == "nt" else processes
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _start_worker, (initializer, arguments))
    try:
        yield from _in_order(pool, function, iter(work), PENDING * processes)
    except BrokenProcessPool:
        raise InputError(
            "a worker process was killed or could not start; with too little memory for "
            f"{processes} processes, ask for fewer."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def in_threads(function: Callable[[Work], Result], work: Iterable[Work], threads: int) -> Iterator[Result]:
    """`map(function, work)` in that many threads, for a function that mostly runs without Python's lock, as NumPy does.

    Raises what the function raises.
    """
    with ThreadPoolExecutor(threads) as pool:
        yield from _in_order(pool, function, iter(work), PENDING * threads)


def _in_order(
    pool: Executor, function: Callable[[Work], Result], work: Iterator[Work], most_pending: int
) -> Iterator[Result]:
    pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(work, most_pending))
    while pending:
        done = pending.popleft().result()
        pending.extend(pool.submit(function, item) for item in islice(work, 1))
        yield done


def _start_worker(initializer: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles an interruption and ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if initializer:
        initializer(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent is killed; otherwise it would wait for work indefinitely."""
    if parent := parent_process():
        parent.join()
        os._exit(1)
