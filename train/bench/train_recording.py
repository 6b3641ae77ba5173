"""Training steps of ours and a peer by turns, and what both sides answer."""

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
from .workload import PEERS, Workload

OURS = [sys.executable, "-m", f"{__package__}.train_worker"]
LEAST = 2  # steps of a turn: a single one, after a pause of seconds, would mostly measure the pause
WARM_UP = 2  # steps


@dataclass(frozen=True)
class TrainRecording:
    """The answers of one side: to the job, in each round, and at the end."""

    begun: dict[str, Any]
    turns: tuple[dict[str, Any], ...]  # seconds and losses of the steps of each round
    ended: dict[str, Any]

    @property
    def seconds(self) -> list[list[float]]:
        """Seconds of the steps of each turn, without its first, which finds caches and memory cold after the pause."""
        return [turn["seconds"][1:] for turn in self.turns]


def record_training(workload: Workload, against: Against | None, rounds: int, show: Show) -> list[TrainRecording]:
    """Start ours and the peer, let them take turns of as many steps as fill TURN_S, and stop them."""
    with ExitStack() as stack:
        workers, begun = _start_workers(stack, workload, against, show)

        def turns(first: int, steps: int) -> list[dict[str, Any]]:
            return [worker.ask({"rates": workload.rates(first, steps)}) for worker in workers]

        recorded = [turns(1, WARM_UP)]
        done = 1 + WARM_UP
        for i in range(rounds):
            steps = _steps_of_a_turn(recorded[-1])
            show(f"round {i + 1} of {rounds}, {steps} steps each")
            recorded.append(turns(done, 1 + steps))
            done += 1 + steps
        show("the machine's speed in matrix products")
        ended = [worker.ask({"stop": True}) for worker in workers]
    return [TrainRecording(*one) for one in zip(begun, zip(*recorded[1:], strict=True), ended, strict=True)]


def _steps_of_a_turn(last: list[dict[str, Any]]) -> int:
    """From the turns of the round before; the same for both sides, so that their losses can be compared."""
    return max(LEAST, round(alternate.TURN_S / np.mean([np.median(turn["seconds"]) for turn in last])))


def _start_workers(
    stack: ExitStack, workload: Workload, against: Against | None, show: Show
) -> tuple[list[Worker], list[dict[str, Any]]]:
    """The processes and their answers to the job. Ours begins, because the peer starts from its weights."""
    with tempfile.TemporaryDirectory(prefix="jaxllm-bench-") as folder:
        weights = str(Path(folder) / "weights.npz") if against else None
        show("starting and compiling jaxllm")
        ours = stack.enter_context(Worker("jaxllm", OURS, workload.job() | {"save_weights": weights}, alternate.ROOT))
        begun = ours.start()
        if against is None:
            return [ours], [begun]
        alternate.check_platform(begun["platform"], against.name)
        show(f"starting {against.name}")
        job = workload.job() | {"load_weights": weights, "peer": against.path, "platform": begun["platform"]}
        peer = stack.enter_context(Worker(against.name, [against.python, str(PEERS[against.name].script)], job))
        return [ours, peer], [begun, peer.start()]
