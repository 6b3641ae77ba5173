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
from .alternate import Against, Show
from .process import Worker
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
    job: dict[str, Any], against: Against | None, rounds: int, show: Show
) -> tuple[list[GenerateRecording], list[float], dict[str, Any] | None]:
    """The recordings of ours and the peer by turns, the memory's speed in each round, and ours compared with the peer.

    The comparison is None if there is no peer or ours has other weights.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jaxllm-bench-"))
        workers, begun = _start_workers(stack, Path(folder), job, against, show)
        comparable = against is not None and job["weights"] == "float32"
        compared = workers[0].ask({"compare": f"{folder}/theirs.npz"}) if comparable else None
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
    stack: ExitStack, folder: Path, job: dict[str, Any], against: Against | None, show: Show
) -> tuple[list[Worker], list[dict[str, Any]]]:
    """The processes and their answers to the job. Ours begins, because the peer starts from its weights."""
    weights = str(folder / "weights.npz") if against else None
    show("starting and compiling jaxllm")
    ours = Worker("jaxllm", OURS, job | {"save_weights": weights, "sample": None}, alternate.ROOT)
    begun = stack.enter_context(ours).start()
    if against is None:
        return [ours], [begun]
    alternate.check_platform(begun["platform"], against.name)
    show(f"starting {against.name}")
    asked = job | {"load_weights": weights, "peer": against.path, "platform": begun["platform"]}
    asked |= {"sample": f"{folder}/theirs.npz"}
    peer = stack.enter_context(Worker(against.name, [against.python, str(SCRIPTS[against.name])], asked))
    answer = peer.start()
    (folder / "weights.npz").unlink(missing_ok=True)
    return [ours, peer], [begun, answer]
