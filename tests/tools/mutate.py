"""Breaks the code in many small ways and shows that a test catches each: `python tests/tools/mutate.py [I/N] [WORD ...]`.

A test that cannot fail proves nothing. `tests/tools/slips` lists slips that people make, each with the one test that
must notice it. This program first checks that all of them still fit the code, and runs their tests on the unchanged code.
Then it puts in one mutation at a time. Each run is a fork of this process, with JAX loaded but not started, in a copy of
the project. The exit code is 1 if a mutation survives or its test fails for another reason than the fault. With I/N, as in
2/3, every N-th mutation is tried, from the I-th on; all still have to fit the code.
"""

import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from slips import MUTATIONS, Mutation, stale

ROOT = Path(__file__).parents[2]
# The same examples each time, so that a fault is noticed always or never.
OPTIONS = ["-n", "0", "--assert=plain", "-p", "no:cacheprovider", "--hypothesis-seed=0"]


class Failure(NamedTuple):
    """How a test failed."""

    when: str  # "collect", "setup", "call" or "teardown"
    asserted: bool  # whether by an assertion
    text: str  # the exception, and the line of the test that raised it


class Outcome(NamedTuple):
    """The result of a run of tests."""

    mutation: Mutation | None
    code: int  # of pytest
    failures: list[Failure]
    output: str


def main(words: list[str]) -> int:
    part = words.pop(0) if words and re.fullmatch(r"[1-9]\d*/[1-9]\d*", words[0]) else "1/1"
    first, every = map(int, part.split("/"))
    named = [m for m in MUTATIONS if not words or any(word in f"{m.what} {m.file}" for word in words)]
    chosen = named[first - 1 :: every]
    if faults := stale(named):
        print("\n".join(faults))
        return 1
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="jaxllm-mutate-") as work:
        os.environ |= {
            "JAX_PLATFORMS": "cpu",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{work}/compiled")  # what no mutation changes compiles once
        load_packages()
        return check(chosen, Path(work), start)


def check(chosen: list[Mutation], work: Path, start: float) -> int:
    tests, cores = list(dict.fromkeys(m.test for m in chosen)), os.cpu_count() or 1
    untouched = [(None, tests[i::cores]) for i in range(cores) if tests[i::cores]]
    wrong = [outcome.output for outcome in run_all(untouched, work, cores) if outcome.code != 0]
    if wrong:
        print("a test fails on the unchanged code, or does not exist:\n" + "\n".join(wrong))
        return 1
    missed = again = uncaught(chosen, work, cores)
    if again:
        print(f"once more, one at a time, because other jobs on the machine may be the cause: {len(again)}")
        missed = uncaught(again, work, 1)
    seconds = time.perf_counter() - start
    for mutation in again:
        print(
            f"{'not caught' if mutation in missed else 'caught at the second try'}: {mutation.what} ({mutation.test})"
        )
    print(f"{len(chosen) - len(missed)} of {len(chosen)} mutations caught, in {seconds:.0f} s")
    return 1 if missed else 0


def uncaught(chosen: list[Mutation], work: Path, at_once: int) -> list[Mutation]:
    """Put in one mutation at a time, print what came of each, and return those that no test noticed."""
    missed = []
    for outcome in run_all([(m, [m.test]) for m in chosen], work, at_once):
        mutation = outcome.mutation
        assert mutation is not None
        caught = noticed(mutation, outcome)
        print(f"{'caught ' if caught else 'MISSED '} {mutation.what} ({mutation.test})", flush=True)
        if not caught:
            missed.append(mutation)
            print(f"pytest exit code {outcome.code}, expected {mutation.sign or 'an assertion'!r}:\n{outcome.output}")
    return missed


def noticed(mutation: Mutation, outcome: Outcome) -> bool:
    """Whether the test itself failed, for the reason that the mutation names."""
    return any(
        failure.when == "call" and (mutation.sign in failure.text if mutation.sign else failure.asserted)
        for failure in outcome.failures
    )


def load_packages() -> None:
    """Load the packages that every fork needs. Neither jaxllm nor train, which a mutation may change; no device."""
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # programs run once, to see one fault
    import beartype
    import flax.linen
    import hypothesis
    import jax
    import jaxtyping
    import optax
    import orbax.checkpoint
    import pytest

    assert all((flax.linen, hypothesis, jax, jaxtyping, optax, orbax.checkpoint, pytest))
    beartype.beartype(load_packages)  # it loads the rest of itself when it is first called
    gc.collect()
    gc.freeze()  # forks need not look at these objects when they collect


def run_all(jobs: list[tuple[Mutation | None, list[str]]], work: Path, at_once: int) -> Iterator[Outcome]:
    """Run tests on copies of the project with one mutation or none, in a process each, `at_once` of them at a time."""
    running: dict[int, tuple[Mutation | None, Path]] = {}
    waiting = list(jobs)
    while waiting or running:
        while waiting and len(running) < at_once:
            mutation, tests = waiting.pop(0)
            folder = Path(tempfile.mkdtemp(dir=work))
            copy(mutation, folder)
            running[fork(tests, folder)] = mutation, folder
        child, status = os.wait()
        mutation, folder = running.pop(child)
        yield Outcome(
            mutation,
            os.waitstatus_to_exitcode(status),
            [Failure(*one) for one in json.loads((folder / "failures.json").read_text())],
            (folder / "output").read_text(errors="replace"),
        )
        shutil.rmtree(folder)


def copy(mutation: Mutation | None, folder: Path) -> None:
    """Copy the project, with the mutation put in, and compiled files, which Python takes where the source is as old."""
    for name in ("jaxllm", "train", "tests"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "failures.json").write_text("[]")
    if mutation is not None:
        file = folder / mutation.file
        text = file.read_text(encoding="utf-8")
        file.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")


def fork(tests: list[str], folder: Path) -> int:
    """Run tests of the copy in a fork of this process; returns its process id."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX warns about forks; its threads have not started
        child = os.fork()
    if child:
        return child
    code = 99
    try:
        with into(folder / "output"):
            import pytest

            os.chdir(folder)
            sys.path.insert(0, str(folder))
            paths, witness = [f"tests/{test}" for test in tests], Witness()
            code = int(pytest.main([*OPTIONS, *paths], [witness]))
            (folder / "failures.json").write_text(json.dumps(witness.failures))
    finally:
        os._exit(code)


class Witness:
    """A plugin of pytest that records how tests failed."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def pytest_exception_interact(self, node: Any, call: Any, report: Any) -> None:
        error = call.excinfo.value
        lines = [str(entry.statement) for entry in call.excinfo.traceback if entry.path == node.path]
        text = f"{described(error)}\n{lines[-1] if lines else ''}"
        self.failures.append(Failure(getattr(report, "when", "collect"), by_assertion(error), text))


def described(error: BaseException) -> str:
    """The types and texts of an exception, or of all in a group (hypothesis, of more than one fault)."""
    if isinstance(error, BaseExceptionGroup):
        return "\n".join(map(described, error.exceptions))
    return f"{type(error).__name__}: {error}"


def by_assertion(error: BaseException) -> bool:
    """Whether an assertion failed, or `pytest.raises` saw no exception; a time-out is neither."""
    import pytest

    if isinstance(error, BaseExceptionGroup):  # hypothesis, of more than one fault
        return all(map(by_assertion, error.exceptions))
    failed = isinstance(error, pytest.fail.Exception) and not str(error).startswith("Timeout")
    return failed or isinstance(error, AssertionError)


@contextmanager
def into(file: Path) -> Iterator[None]:
    """Redirect standard output and error of this process, native code included, into a file."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        yield
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
