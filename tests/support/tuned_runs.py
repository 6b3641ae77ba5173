"""Runs on examples that begin from a model of random weights, small enough to train in a test."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from runs import Step

import train.loop
from train.cli import main
from train.runtime.signals import Stop

LINES: dict[str, list[dict[str, Any]]] = {
    "instruct": [{"prompt": "ab" * (1 + i % 3), "answer": "c" * (1 + i % 4)} for i in range(20)],
    "classify": [{"text": "abc"[i % 3] * (1 + i % 4), "label": ("one", "two", "three")[i % 3]} for i in range(20)],
    "prefer": [{"prompt": "ab" * (1 + i % 3), "chosen": "c" * (1 + i % 4), "rejected": "d"} for i in range(20)],
}
OPTIONS = (
    "train.steps=4", "train.batch_size=4", "train.grad_accumulation=2", "eval.every=2", "eval.sample_tokens=3",
    "optimizer.learning_rate=1e-2", "train.products=xla",
)  # fmt: skip


def examples_file(folder: Path, kind: str) -> Path:
    """The examples of LINES, as a file of the folder."""
    path = folder / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[kind]))
    return path


def sets(*options: str) -> list[str]:
    """The words of the command line that set these fields."""
    return [word for option in options for word in ("--set", option)]


def tune(base: Path, kind: str, out: Path, *options: str) -> int:
    """The exit code of `jaxllm tune` with the examples of the kind, which lie beside the base."""
    words = ["tune", str(base), str(examples_file(base.parent, kind)), "--kind", kind, "--out", str(out)]
    return main([*words, *sets(*OPTIONS, *options)])


def resume(out: Path, *options: str) -> int:
    """The exit code of `jaxllm train --resume`."""
    return main(["train", "--out", str(out), "--resume", *sets(*options)])


@contextmanager
def ended_after(step: int) -> Iterator[None]:
    """A signal arrives during this step of a run."""
    stop = Stop()

    @contextmanager
    def seen() -> Iterator[Stop]:
        yield stop

    def begun(*arguments: Any) -> Any:
        state, compiled = begin(*arguments)

        def call(state: Any, *batch: Any) -> Any:
            result = compiled(state, *batch)
            if int(result[0].step) == step:
                stop.by = signal.SIGTERM
            return result

        return state, Step(call)

    begin = train.loop.init_and_compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.loop, "stoppable", seen)
        patch.setattr(train.loop, "init_and_compile", begun)
        yield
