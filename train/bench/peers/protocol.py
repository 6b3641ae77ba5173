"""What a process that is timed says and hears: JSON, one object a line, over its standard input and output.

The first line it hears is the job. It builds, takes the first step and answers with what there is to say about it; then
{"rates": [...]} asks for a step with each learning rate, and {"stop": true} for the last words. One that generates
begins with a text, and {"texts": n} asks for as many. Needs NumPy alone.
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
    answer, messages = _converse()
    job = messages.get()
    trainee = build(job)
    seconds, loss = _timed_step(trainee, job, 0, job["rates"][0])
    since_start = time.time() - job["spawned"] - trainee.weights_s
    answer({"first_step_s": since_start, "loss": loss, **trainee.about(seconds)})
    done = 1
    while "stop" not in (message := messages.get()):
        steps = [_timed_step(trainee, job, done + i, rate) for i, rate in enumerate(message["rates"])]
        done += len(steps)
        answer({"seconds": [s for s, _ in steps], "losses": [loss for _, loss in steps]})
    answer(trainee.close())


def _timed_step(trainee: Trainee, job: Job, step: int, rate: float) -> tuple[float, float]:
    """Seconds and loss; drawing the tokens is not timed, bringing them to the device is."""
    tokens = draw_tokens(job, step)
    start = time.perf_counter()
    loss = trainee.step(tokens, rate)
    return time.perf_counter() - start, loss


class Writer(Protocol):
    """A model that continues prompts with the likeliest tokens, on one side of a bench."""

    weights_s: float  # as of a `Trainee`

    def write(self, prompts: np.ndarray) -> tuple[np.ndarray, float]:
        """Continue prompts [B, P] int32 by as many tokens as the job says: [B, N] int32, and the time.perf_counter() at
        which the first of them were known."""

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        """From which the first token is chosen: -> [B, V] float32. Not timed."""

    def about(self) -> dict[str, Any]:
        """Device, versions and whatever else is known after the first text."""

    def tell(self, message: dict[str, Any]) -> dict[str, Any]:
        """Answers what only this side is asked."""

    def close(self) -> dict[str, Any]:
        """`peak_bytes`."""


def draw_prompts(job: Job) -> np.ndarray:
    """The random prompts [B, P] int32, the same on both sides."""
    rng = np.random.default_rng(0)
    return rng.integers(job["model"]["vocab_size"], size=(job["batch_size"], job["prompt_tokens"])).astype(np.int32)


def serve_writer(build: Callable[[Job], Writer]) -> None:
    """Build what the job asks for, write a text and more when asked. job["sample"]: a file to leave the first in, with
    the logits it began from, or None."""
    answer, messages = _converse()
    job = messages.get()
    writer, prompts = build(job), draw_prompts(job)
    tokens, _ = writer.write(prompts)
    since_start = time.time() - job["spawned"] - writer.weights_s
    if job["sample"]:
        np.savez(job["sample"], tokens=tokens, logits=writer.logits(prompts))
    answer({"first_text_s": since_start, **writer.about()})
    while "stop" not in (message := messages.get()):
        answer(_timed_texts(writer, prompts, message["texts"]) if "texts" in message else writer.tell(message))
    answer(writer.close())


def _timed_texts(writer: Writer, prompts: np.ndarray, n: int) -> dict[str, list[float]]:
    """Seconds to the first tokens and to the whole text, n times."""
    first, whole = [], []
    for _ in range(n):
        start = time.perf_counter()
        _, middle = writer.write(prompts)
        whole.append(time.perf_counter() - start)
        first.append(middle - start)
    return {"first_s": first, "seconds": whole}


def _converse() -> "tuple[Callable[[dict[str, Any]], None], queue.SimpleQueue[dict[str, Any]]]":
    """How to answer, and the parent's messages. Whatever a model prints from now on is no answer."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    return answer, _listen()


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
