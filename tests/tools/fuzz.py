"""Gives every loader hostile files: `python tests/tools/fuzz.py [TARGET ...] [--inputs 100000] [--seed 0]`.

An input is a function of (seed, target, number), so what fails can be made again. It may be read, or refused by an
InputError of one printable line; any other exception, a second of processor time, or 64 MiB more than the input needs
is a failure, and so is the end of the process. Inputs run in forks of this process, a few thousand in each, whose
address space is limited: what would take more memory gets a MemoryError. Exit 1 on a failure.
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

sys.path.insert(0, str(Path(__file__).parents[2]))  # as pytest has them
sys.path.insert(1, str(Path(__file__).parents[1] / "support"))
from fuzz_targets import TARGETS, Files, Target

from jaxllm import InputError

BATCH = 2000  # inputs of one fork
MOST_MEMORY = 2**26  # bytes beyond what the process has at its start, and the files
MOST_SECONDS = 1.0  # of the processor
STUCK = 30.0  # seconds in which a process comes to no next input
LONGEST_MESSAGE = 2000  # characters
MOST_FAILURES = 20  # of a target, shown and saved
RAM = Path("/dev/shm")


class Hang(BaseException):
    """No `except Exception` may take it for its own."""


def _on_time(_signal: int, _frame: FrameType | None) -> None:
    raise Hang(f"more than {MOST_SECONDS} s")


class Progress:
    """What a fork tells its parent as it goes: four numbers, in memory that both have."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 32)

    def tell(self, number: int, loaded: int, slowest: float, peak: float) -> None:
        self._memory[:] = struct.pack("<qqdd", number, loaded, slowest, peak)

    def read(self) -> tuple[int, int, float, float]:
        """The number of the input that is next or under way, how many were read, seconds, MiB."""
        return struct.unpack("<qqdd", self._memory[:])


@dataclass
class Result:
    """Of a target."""

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
    """A folder of the files, for as long as they are needed."""
    folder = within / "folder"
    folder.mkdir(exist_ok=True)
    write(files, folder)
    yield folder
    for name in files:
        (folder / name).unlink(missing_ok=True)


def told(error: BaseException, what: str = "") -> str:
    """The end of the traceback, fit to be shown."""
    lines = "".join(traceback.format_exception(error, limit=-8)).split("\n") + [what]
    return "\n".join("".join(c if c.isprintable() else ascii(c) for c in line)[:300] for line in lines if line)


def fault_of(target: Target, folder: Path) -> tuple[bool, str]:
    """Whether the files were read, and what is wrong with how they were not."""
    try:
        target.use(folder)
        return True, ""
    except InputError as error:
        message = str(error)
        if not message.isprintable() or not message or len(message) > LONGEST_MESSAGE:
            return False, told(error, f"the message, of {len(message):,} characters, is not one printable line")
        return False, ""
    except BaseException as error:
        return False, told(error)


def run_batch(name: str, seed: int, numbers: range, within: Path, progress: Progress, faults: Path) -> None:
    """In a process of its own. Faults go into a folder, a file each."""
    target = TARGETS[name]
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, _on_time)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded, slowest = 0, 0.0
    for number in numbers:
        progress.tell(number, loaded, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        with written(made(name, seed, number), within) as folder:
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            try:
                read, fault = fault_of(target, folder)
            except Hang as error:  # it came just after the last line
                read, fault = False, str(error)
            signal.setitimer(signal.ITIMER_PROF, 0)
            seconds = time.process_time() - start
        if not fault and seconds > MOST_SECONDS:  # in code that no signal ends
            fault = f"{seconds:.1f} s of processor time"
        loaded, slowest = loaded + (read and not fault), max(slowest, seconds)
        if fault:
            (faults / str(number)).write_text(fault)
    progress.tell(numbers.stop, loaded, slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def fork_batch(name: str, seed: int, numbers: range, within: Path, faults: Path) -> tuple[int, Progress]:
    """Runs the inputs until all are done or the process ends; the number of the next one, and what it told."""
    progress = Progress()
    progress.tell(numbers.start, 0, 0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns of forks; its threads have not been started
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
    """Run a target on the inputs of these numbers; those that fail are kept as `keep/NAME-NUMBER`, with their fault."""
    result = Result()
    made(name, seed, 0)  # what seeds are made of is then there for every fork
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
    parser.add_argument("--inputs", type=int, default=100_000, help="of each target (100000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input, to make one again (0)")
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
