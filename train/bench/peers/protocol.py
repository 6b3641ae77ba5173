"""The messages of a timed process: JSON, one object a line, over its standard input and output.

The first message is the job. The process builds its model, takes the first step and answers with a description. Then
{"rates": [...]} asks for a step with each learning rate, and {"stop": true} for the final answer. A process that
generates begins with one text, and {"texts": n} asks for n more. Only NumPy is needed.

`--against-commit` sends these messages to older versions of our own processes, so no key changes its meaning.
"""

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

Job = dict[str, Any]


class TrainSide(Protocol):
    """A model and its optimizer, on one side of a bench."""

    weights_s: float  # seconds spent on loading weights, which its start-up time leaves out

    def step(self, tokens: np.ndarray, rate: float) -> float:
        """One optimizer step on tokens [B, T + 1] with that learning rate; returns the loss after it is computed."""

    def about(self, first_step_s: float) -> dict[str, Any]:
        """Device, versions, number of parameters and `compile_s`, after the first step, which took `first_step_s`.

        Ours compiles while it initialises the state, so its `compile_s` includes both.
        """

    def close(self) -> dict[str, Any]:
        """`peak_bytes`, and other figures that are known at the end."""


def draw_tokens(job: Job, step: int) -> np.ndarray:
    """The random tokens of a step, [B, T + 1] int32: the same on both sides."""
    shape = (job["train"]["batch_size"], job["model"]["context_length"] + 1)
    rng = np.random.default_rng([job["train"]["seed"], step])
    return rng.integers(job["model"]["vocab_size"], size=shape).astype(np.int32)


class RefusedError(Exception):
    """A side cannot do its job; the message is a sentence for the user."""


def serve(build: Callable[[Job], TrainSide]) -> None:
    """Build a side for the job, and take steps until a message says stop. A refused job is answered by the reason."""
    answer, messages = _connect()
    job = messages.get()
    try:
        side = build(job)
    except RefusedError as error:
        return answer({"refused": str(error)})
    seconds, loss = _timed_step(side, job, 0, job["rates"][0])
    since_start = time.time() - job["spawned"] - side.weights_s
    answer({"first_step_s": since_start, "loss": loss, **side.about(seconds)})
    done = 1
    while "stop" not in (message := messages.get()):
        steps = [_timed_step(side, job, done + i, rate) for i, rate in enumerate(message["rates"])]
        done += len(steps)
        answer({"seconds": [s for s, _ in steps], "losses": [loss for _, loss in steps]})
    answer(side.close())


def _timed_step(side: TrainSide, job: Job, step: int, rate: float) -> tuple[float, float]:
    """Seconds and loss. Drawing the tokens is not timed; transferring them to the device is."""
    tokens = draw_tokens(job, step)
    start = time.perf_counter()
    loss = side.step(tokens, rate)
    return time.perf_counter() - start, loss


class GenerateSide(Protocol):
    """A model that continues prompts greedily, on one side of a bench."""

    weights_s: float  # as of a `TrainSide`

    def write(self, prompts: np.ndarray) -> tuple[np.ndarray, float]:
        """Continue prompts [B, P] int32 by the job's number of tokens.

        Returns them, [B, N] int32, and the time.perf_counter() at which the first of them were known.
        """

    def logits(self, prompts: np.ndarray) -> np.ndarray:
        """The logits of the first token, [B, V] float32. Not timed."""

    def about(self) -> dict[str, Any]:
        """Device, versions and other figures that are known after the first text."""

    def answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer to a message of another kind."""

    def close(self) -> dict[str, Any]:
        """`peak_bytes`."""


def draw_prompts(job: Job) -> np.ndarray:
    """The random prompts [B, P] int32, the same on both sides."""
    rng = np.random.default_rng(0)
    return rng.integers(job["model"]["vocab_size"], size=(job["batch_size"], job["prompt_tokens"])).astype(np.int32)


def serve_generation(build: Callable[[Job], GenerateSide]) -> None:
    """Build a side for the job, write a text, and more texts on request.

    job["sample"] is the file for the first text and the logits of its first token, or None.
    """
    answer, messages = _connect()
    job = messages.get()
    side, prompts = build(job), draw_prompts(job)
    tokens, _ = side.write(prompts)
    since_start = time.time() - job["spawned"] - side.weights_s
    if job["sample"]:
        np.savez(job["sample"], tokens=tokens, logits=side.logits(prompts))
    answer({"first_text_s": since_start, **side.about()})
    while "stop" not in (message := messages.get()):
        answer(_timed_texts(side, prompts, message["texts"]) if "texts" in message else side.answer(message))
    answer(side.close())


def _timed_texts(side: GenerateSide, prompts: np.ndarray, n: int) -> dict[str, list[float]]:
    """Seconds to the first tokens and to the whole text, n times."""
    first, whole = [], []
    for _ in range(n):
        start = time.perf_counter()
        _, middle = side.write(prompts)
        whole.append(time.perf_counter() - start)
        first.append(middle - start)
    return {"first_s": first, "seconds": whole}


def _connect() -> "tuple[Callable[[dict[str, Any]], None], queue.SimpleQueue[dict[str, Any]]]":
    """A function to answer with, and the parent's messages. From now on standard output is standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    return answer, _listen()


def _listen() -> "queue.SimpleQueue[dict[str, Any]]":
    """The parent's messages. When they end, this process exits at once."""
    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def read() -> None:
        # Unbuffered: a thread that holds the lock of sys.stdin would block Python's shutdown.
        with open(0, "rb", buffering=0, closefd=False) as lines:
            for line in lines:
                messages.put(json.loads(line))
        os._exit(1)

    threading.Thread(target=read, daemon=True).start()
    return messages


def peak_memory() -> int:
    """The peak of main memory of this process so far, in bytes; 0 where the system does not report it."""
    try:
        with open("/proc/self/status", encoding="ascii") as lines:  # ru_maxrss includes the parent's, up to the fork
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
