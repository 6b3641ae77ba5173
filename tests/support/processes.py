"""Runs by several processes on the loopback address, which never outlive the test."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LONGEST_S = 600  # for a run
PROGRAM = """
import sys
from train.cli import main
from train.parallel import processes
vars(processes).update({time_outs})
sys.exit(main(sys.argv[1:]))
"""


class Ended(NamedTuple):
    """What a process left."""

    code: int
    out: str
    error: str


def free_address() -> str:
    """An address of this machine at which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listening.getsockname()[1]}"


def member(address: str, process: int, count: int) -> list[str]:
    """The options of one of so many processes."""
    return ["--coordinator", address, "--process-id", str(process), "--num-processes", str(count)]


@contextmanager
def started(
    commands: Sequence[Sequence[str]], devices: int = 1, **time_outs: int
) -> Iterator[list[subprocess.Popen[str]]]:  # fmt: skip
    """Processes of `jaxllm`, each with as many virtual devices, that are killed at the end.

    `time_outs` are others than those of `train.parallel.processes`.
    """
    more = {
        "PYTHONPATH": str(ROOT), "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }  # fmt: skip
    running: list[subprocess.Popen[str]] = []
    try:
        for words in commands:
            command = [sys.executable, "-c", PROGRAM.format(time_outs=time_outs), *words]
            pipe = subprocess.PIPE
            running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | more))
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def ended(commands: Sequence[Sequence[str]], devices: int = 1, **time_outs: int) -> list[Ended]:
    """What processes leave that run to their end."""
    with started(commands, devices, **time_outs) as running:
        return waited_for(running)


def waited_for(running: Sequence[subprocess.Popen[str]]) -> list[Ended]:
    """What the processes leave."""
    end = time.monotonic() + LONGEST_S
    left = []
    for process in running:
        out, error = process.communicate(timeout=max(1, end - time.monotonic()))
        left.append(Ended(process.returncode, out, error))
    return left


def signalled(
    commands: Sequence[Sequence[str]], process: int, by: signal.Signals, when: Callable[[], bool], **time_outs: int
) -> list[Ended]:  # fmt: skip
    """What processes leave of which one gets a signal when that is true."""
    end = time.monotonic() + LONGEST_S
    with started(commands, **time_outs) as running:
        while not when() and time.monotonic() < end and all(one.poll() is None for one in running):
            time.sleep(0.05)
        running[process].send_signal(by)
        return waited_for(running)
