"""Training steps of ours and a peer by turns, and what both sides answer."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import alternate
from .alternate import Show
from .process import Worker
from .sides import Other, other_side, our_side, start_sides
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


def record_training(workload: Workload, other: Other | None, rounds: int, show: Show) -> list[TrainRecording]:
    """Start ours and the other, let them take turns of as many steps as fill TURN_S, and stop them."""
    with ExitStack() as stack:
        workers, begun = _start_workers(stack, workload, other, show)
        return take_turns(workers, begun, workload.rates, rounds, show)


def take_turns(
    workers: list[Worker], begun: list[dict[str, Any]], rates: Callable[[int, int], list[float]], rounds: int,
    show: Show,
) -> list[TrainRecording]:  # fmt: skip
    """What processes record that have `begun` with a first step; `rates` are `Workload.rates`."""

    def turns(first: int, steps: int) -> list[dict[str, Any]]:
        return [worker.ask({"rates": rates(first, steps)}) for worker in workers]

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
    stack: ExitStack, workload: Workload, other: Other | None, show: Show
) -> tuple[list[Worker], list[dict[str, Any]]]:
    job, scripts = workload.job(), {name: peer.script for name, peer in PEERS.items()}
    beside = other_side(stack, other, job, scripts) if other else None
    return start_sides(stack, our_side(OURS, job), beside, show)
