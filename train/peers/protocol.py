"""What a process that is timed says and hears: JSON, one object a line, over its standard input and output.

The first line it hears is the job. It builds, takes the first step and answers with what there is to say about it; then
{"rates": [...]} asks for a step with each learning rate, and {"stop": true} for the last words. Needs NumPy alone.
"""

import json
import os
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Job = dict[str, Any]


class Trainee(Protocol):
    """A model and its optimizer, on one side of a bench."""

    weights_s: float  # spent on handing weights over, which is no part of its start

    def step(self, tokens: np.ndarray, rate: float) -> float:
        """One optimizer step on tokens [B, T + 1] with that learning rate; the loss, once all is computed."""

    def about(self, first_step_s: float) -> dict[str, Any]:
        """Device, versions, number of parameters and `compile_s`, after the first step, which took that long.

        Ours compiles while it makes its first state, so the time is that of both."""

    def close(self) -> dict[str, Any]:
        """`peak_bytes`, and whatever else can only be told at the end."""


def draw_tokens(job: Job, step: int) -> np.ndarray:
    """The random tokens of a step, [B, T + 1] int32: the same on both sides."""
    shape = (job["train"]["batch_size"], job["model"]["context_length"] + 1)
    rng = np.random.default_rng([job["train"]["seed"], step])
    return rng.integers(job["model"]["vocab_size"], size=shape).astype(np.int32)


def serve(build: Callable[[Job], Trainee]) -> None:
    """Build what the job asks for and take steps until told to stop."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a model prints is no answer
    messages = _listen()
    job = messages.get()
    trainee = build(job)
    seconds, loss = _timed_step(trainee, job, 0, job["rates"][0])
    since_start = time.time() - job["spawned"] - trainee.weights_s
    _answer(answers, {"first_step_s": since_start, "loss": loss, **trainee.about(seconds)})
    done = 1
    while "stop" not in (message := messages.get()):
        steps = [_timed_step(trainee, job, done + i, rate) for i, rate in enumerate(message["rates"])]
        done += len(steps)
        _answer(answers, {"seconds": [s for s, _ in steps], "losses": [loss for _, loss in steps]})
    _answer(answers, trainee.close())


def _timed_step(trainee: Trainee, job: Job, step: int, rate: float) -> tuple[float, float]:
    """Seconds and loss; drawing the tokens is not timed, bringing them to the device is."""
    tokens = draw_tokens(job, step)
    start = time.perf_counter()
    loss = trainee.step(tokens, rate)
    return time.perf_counter() - start, loss


def _answer(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


def _listen() -> "queue.SimpleQueue[dict[str, Any]]":
    """The parent's messages. When they end, however the parent ended, so does this process, whatever it is at."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        # Unbuffered: a thread that waits with the lock of sys.stdin would be in the way when Python shuts down.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                messages.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return messages


def peak_memory() -> int:
    """Most bytes of main memory that this process has held so far."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:  # ru_maxrss would count the parent's, up to the fork
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
