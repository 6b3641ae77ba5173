"""The process in which a plan is compiled. Its environment holds what must be set before JAX's backend starts."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from jaxllm.utils.errors import InputError, printable

from ..runtime.allocator import compute_in_this_thread, with_allocator
from .chips import CHIPS
from .roofline import Figures

MOST_CHARACTERS = 200  # of what a process that died is quoted with


def planned(job: dict[str, Any]) -> Figures:
    """The figures of `train.plan.compiled.plan`. Raises InputError where it does, or if its process dies."""
    return ask(f"{__package__}.compiled", job, environment(job))


def ask(module: str, job: dict[str, Any], variables: Mapping[str, str]) -> Figures:
    """What the process of a module that calls `serve` answers, where these variables are set. Raises its InputError."""
    done = subprocess.run(
        [sys.executable, "-m", module], input=json.dumps(job), capture_output=True, text=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    answer = next((line for line in reversed(done.stdout.splitlines()) if line.startswith("{")), "")
    if not answer:
        reason = last_words(done.stderr) or f"it ended with {done.returncode}"
        raise InputError(
            f"the step cannot be compiled for {job['n_devices']:,} x {job['kind']}: {reason}; choose other sizes in "
            "[parallel], or a batch that uses all devices."
        )
    figures: Figures = json.loads(answer)
    if "refused" in figures:
        raise InputError(figures["refused"])
    return figures


def serve(answer: Callable[[dict[str, Any]], Figures]) -> None:
    """In the process that is asked: read the job, print the answer or why it is refused."""
    compute_in_this_thread()
    try:
        figures = answer(json.load(sys.stdin))
    except InputError as error:
        figures = {"refused": str(error)}
    print(json.dumps(figures))


def last_words(errors: str) -> str:
    """The last line that a process wrote to stderr; of a long one, which may list all devices, the kind of error."""
    last = next((line.strip().rstrip(".") for line in reversed(errors.splitlines()) if line.strip()), "")
    return last if len(last) <= MOST_CHARACTERS else printable(last.partition(":")[0])


def environment(job: dict[str, Any]) -> dict[str, str]:
    """Variables for so many virtual devices of a CPU, or libtpu without a TPU.

    libtpu may serve other programs at the same time, and optimises little, so that it compiles in a tenth of the time.
    """
    if not job["topology"]:
        return with_allocator({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(job["n_devices"])})
    chip = CHIPS[job["kind"]]
    return {
        "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": chip.accelerator.format(chip.cores * job["n_devices"]),
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "JAX_OPTIMIZATION_LEVEL": "O0",
    }  # fmt: skip
