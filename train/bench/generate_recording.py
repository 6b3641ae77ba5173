"""Texts written by ours and a peer by turns, and what both sides answer."""

import math
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import alternate
from .alternate import Show
from .commit import Commit
from .process import Worker
from .sides import Other, other_side, our_side, start_sides
from .workload import FOLDER

OURS = [sys.executable, "-m", f"{__package__}.generate_worker"]
SCRIPTS = {name: FOLDER / f"{name}_writer.py" for name in ("nanogpt", "hf")}
BANDWIDTH_BYTES = 2**29  # read to measure the memory's speed: far more than any cache holds


@dataclass(frozen=True)
class GenerateRecording:
    """The answers of one side: to the job, in each round, and at the end."""

    begun: dict[str, Any]
    turns: tuple[dict[str, list[float]], ...]
    ended: dict[str, Any]

    def timed(self, name: str) -> list[list[float]]:
        """`seconds` or `first_s` of each turn; the first of several texts is left out, because it finds caches cold."""
        return [turn[name][1:] or turn[name] for turn in self.turns]


def record_generation(
    job: dict[str, Any], other: Other | None, rounds: int, show: Show
) -> tuple[list[GenerateRecording], list[float], dict[str, Any] | None]:
    """The recordings of ours and the other by turns, the memory's speed in each round, and ours compared with it.

    The comparison is None if ours ran alone, or if its weights are of another type than the other's.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxllm-bench-"))
        sample = str(Path(folder) / "theirs.npz")
        workers, begun = _start_workers(stack, sample, job, other, show)
        comparable = isinstance(other, Commit) or (other is not None and job["weights"] == "float32")
        compared = workers[0].ask({"compare": sample}) if comparable else None
        texts, recorded, bandwidths = 1, [], []
        for i in range(rounds + 1):
            show(f"round {i} of {rounds}, {texts} texts each" if i else "warming up")
            recorded.append([worker.ask({"texts": texts}) for worker in workers])
            texts = math.ceil(alternate.TURN_S / np.mean([np.median(turn["seconds"]) for turn in recorded[-1]]))
            bandwidths.append(workers[0].ask({"bandwidth": BANDWIDTH_BYTES})["bytes_per_s"])
        ended = [worker.ask({"stop": True}) for worker in workers]
    sides = [GenerateRecording(*one) for one in zip(begun, zip(*recorded[1:], strict=True), ended, strict=True)]
    return sides, bandwidths[1:], compared


def _start_workers(
    stack: ExitStack, sample: str, job: dict[str, Any], other: Other | None, show: Show
) -> tuple[list[Worker], list[dict[str, Any]]]:
    beside = other_side(stack, other, job | {"sample": sample}, SCRIPTS) if other else None
    return start_sides(stack, our_side(OURS, job | {"sample": None}), beside, show)
