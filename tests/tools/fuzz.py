"""Gives every loader hostile files: `python tests/tools/fuzz.py [TARGET ...] [--inputs 100000] [--seed 0]`.

An input is a function of (seed, target, number), so a failure can be repeated. An input may be read, or refused by an
InputError of one printable line. A failure is any other exception, a second of processor time, 64 MiB beyond the input's
need, or the end of the process. Inputs run in forks of this process, a few thousand in each. Their address space is
limited, so an allocation beyond it raises a MemoryError. The exit code is 1 on a failure.
"""

import argparse
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the paths that pytest sets
sys.path.insert(1, str(Path(__file__).parents[1] / "support"))
from fuzz_targets import TARGETS, Files, Target

from jaxllm import InputError

BATCH = 2000  # inputs of one fork
MOST_MEMORY = 2**26  # bytes beyond the files and what the process has at its start
MOST_SECONDS = 1.0  # of processor time
STUCK = 30.0  # seconds without a new input after which a process is killed
LONGEST_MESSAGE = 2000  # characters
MOST_FAILURES = 20  # of a target, shown and saved
RAM = Path("/dev/shm")


class Hang(BaseException):
    """Raised on a time-out; no `except Exception` catches it."""


def _on_time(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"more than {MOST_SECONDS} s")


class Progress:
    """A fork's progress, as four numbers in memory that it shares with its parent."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)

    def report(self, number: int, loaded: int, slowest: float, peak: float) -> None:
        self._memory[:] = struct.pack("<qqdd", number, loaded, slowest, peak)

    def read(self) -> tuple[int, int, float, float]:
        """The number of the current or next input, the number of inputs read, the most seconds and the most MiB of one."""
        return struct.unpack("<qqdd", self._memory[:])


@dataclass
class Result:
    """What fuzzing a target gave."""

    inputs: int = 0
    loaded: int = 0
    slowest: float = 0.0  # seconds
    peak: float = 0.0  # MiB
    failures: dict[int, str] = field(default_factory=dict)

    def line(self, name: str, seconds: float) -> str:
        refused = self.inputs - self.loaded - len(self.failures)
        return (
            f"{name:<12}{self.inputs:>9,} inputs in {seconds:6.1f} s: {self.loaded:>7,} read, {refused:>7,} refused, slowest "
            f"{1000 * self.slowest:6.1f} ms, peak {self.peak:5.1f} MiB, {len(self.failures)} failures"
        )


def made(name: str, seed: int, number: int) -> Files:
    return TARGETS[name].make(np.random.default_rng([seed, zlib.crc32(name.encode()), number]))


def write(files: Files, folder: Path) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


@contextmanager
def written(files: Files, within: Path) -> Iterator[Path]:
    """A temporary folder with the files."""
    folder = within / "folder"
    folder.mkdir(exist_ok=True)
    write(files, folder)
    yield folder
    for name in files:
        (folder / name).unlink(missing_ok=True)


def printable_traceback(error: BaseException, what: str = "") -> str:
    """The end of the traceback, printable."""
    lines = "".join(traceback.format_exception(error, limit=-8)).split("\n") + [what]
    return "\n".join("".join(c if c.isprintable() else ascii(c) for c in line)[:300] for line in lines if line)


def fault_of(target: Target, folder: Path) -> tuple[bool, str]:
    """Whether the files were read, and the fault if they were neither read nor properly refused."""
    try:
        target.use(folder)
        return True, ""
    except InputError as error:
        message = str(error)
        if not message.isprintable() or not message or len(message) > LONGEST_MESSAGE:
            return False, printable_traceback(
                error, f"the message, of {len(message):,} characters, is not one printable line"
            )
        return False, ""
    except BaseException as error:
        return False, printable_traceback(error)


def run_batch(name: str, seed: int, numbers: range, within: Path, progress: Progress, faults: Path) -> None:
    """Run the inputs of these numbers in this process; each fault is written to a file of its own."""
    target = TARGETS[name]
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _on_time)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, slowest = 0, 0.0
    for number in numbers:
        progress.report(number, loaded, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        with written(made(name, seed, number), within) as folder:
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            try:
                read, fault = fault_of(target, folder)
            except Hang as error:  # raised just after the last line
                read, fault = False, str(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = time.process_time() - start
        if not fault and seconds > MOST_SECONDS:  # in code that no signal interrupts
            fault = f"{seconds:.1f} s of processor time"
        loaded, slowest = loaded + (read and not fault), max(slowest, seconds)
        if fault:
            (faults / str(number)).write_text(fault)
    progress.report(numbers.stop, loaded, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def fork_batch(name: str, seed: int, numbers: range, within: Path, faults: Path) -> tuple[int, Progress]:
    """Run inputs in a fork until all are done or it ends; returns the number of the next input, and the progress."""
    progress = Progress()
    progress.report(numbers.start, 0, 0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns about forks; its threads have not started
        child = os.fork()
    if not child:
        code = 1
        try:
            run_batch(name, seed, numbers, within, progress, faults)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    last, since = numbers.start, time.monotonic()
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        time.sleep(0.01)
        if progress.read()[0] != last:
            last, since = progress.read()[0], time.monotonic()
        elif time.monotonic() - since > STUCK:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
    next_one = progress.read()[0]
    if next_one < numbers.stop:
        code = os.waitstatus_to_exitcode(ended[1])
        (faults / str(next_one)).write_text(f"the process ended with {code}, or was stuck for {STUCK:.0f} s")
        next_one += 1
    return next_one, progress


def fuzz(name: str, seed: int, numbers: range, keep: Path) -> Result:
    """Run a target on the inputs of these numbers. Those that fail are kept in `keep/NAME-NUMBER` with their fault."""
    result = Result()
    made(name, seed, 0)  # makes the seeds once, for all forks
    with tempfile.TemporaryDirectory(dir=RAM if RAM.is_dir() else None) as work:
        faults = Path(work, "faults")
        faults.mkdir()
        number = numbers.start
        while number < numbers.stop:
            batch = range(number, min(number + BATCH, numbers.stop))
            number, progress = fork_batch(name, seed, batch, Path(work), faults)
            _, loaded, slowest, peak = progress.read()
            result.inputs += number - batch.start
            result.loaded += loaded
            result.slowest, result.peak = max(result.slowest, slowest), max(result.peak, peak)
        for path in sorted(faults.iterdir(), key=lambda path: int(path.name)):
            result.failures[int(path.name)] = path.read_text()
    for number in list(result.failures)[:MOST_FAILURES]:
        folder = keep / f"{name}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write(made(name, seed, number), folder)
        (folder / "fault.txt").write_text(result.failures[number])
    return result


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Gives every loader hostile files.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs for each target (100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to repeat one (0)")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.targets) - set(TARGETS):
        parser.error(f"unknown: {', '.join(unknown)}; targets are {', '.join(TARGETS)}")
    keep, failed = Path(tempfile.gettempdir(), "jaxllm-fuzz"), 0
    for name in chosen.targets or TARGETS:
        start = time.monotonic()
        result = fuzz(name, chosen.seed, range(chosen.first, chosen.first + chosen.inputs), keep)
        for number, fault in list(result.failures.items())[:MOST_FAILURES]:
            print(f"{name} {number}, kept in {keep / f'{name}-{number}'}:\n{fault}\n")
        print(result.line(name, time.monotonic() - start), flush=True)
        failed += bool(result.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
