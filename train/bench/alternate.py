"""Both sides by turns: A B A B, so that what slows the machine down for a while slows both."""

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxllm.utils.errors import InputError

from .generate_recording import PEERS, Subject
from .process import Worker

OURS = [sys.executable, "-m", f"{__package__}.train_worker"]
ROOT = Path(__file__).parents[2]  # where ours runs: in a checkout it is found there
TURN_S = 1.0  # the mean of both sides, which take equally many steps
LEAST = 2  # steps of a turn: after a pause of seconds, one alone would tell more of the pause
WARM_UP = 2  # steps
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Against:
    """The other side: a name in PEERS, the folder it comes from and the Python that runs it."""

    name: str
    path: str | None
    python: str


@dataclass(frozen=True)
class Recording:
    """What one side has answered."""

    begun: dict[str, Any]
    turns: tuple[dict[str, Any], ...]  # one a round, each the seconds and losses of its steps
    ended: dict[str, Any]

    @property
    def seconds(self) -> list[list[float]]:
        """Of each turn, without its first step, which finds caches and memory cold after the pause."""
        return [turn["seconds"][1:] for turn in self.turns]


def record(subject: Subject, against: Against | None, rounds: int, tell: Tell) -> list[Recording]:
    """Start ours and the peer, let them take turns of as many steps as fill about a second, and stop them."""
    with ExitStack() as stack:
        workers, begun = _begin(stack, subject, against, tell)

        def turns(first: int, steps: int) -> list[dict[str, Any]]:
            return [worker.ask({"rates": subject.rates(first, steps)}) for worker in workers]

        recorded = [turns(1, WARM_UP)]
        done = 1 + WARM_UP
        for i in range(rounds):
            steps = _steps_of_a_turn(recorded[-1])
            tell(f"round {i + 1} of {rounds}, {steps} steps each")
            recorded.append(turns(done, 1 + steps))
            done += 1 + steps
        tell("the machine's speed in matrix products")
        ended = [worker.ask({"stop": True}) for worker in workers]
    return [Recording(*one) for one in zip(begun, zip(*recorded[1:], strict=True), ended, strict=True)]


def _steps_of_a_turn(last: list[dict[str, Any]]) -> int:
    """From the turns of the round before; the same for both sides, so that their losses can be compared."""
    return max(LEAST, round(TURN_S / np.mean([np.median(turn["seconds"]) for turn in last])))


def _begin(
    stack: ExitStack, subject: Subject, against: Against | None, tell: Tell
) -> tuple[list[Worker], list[dict[str, Any]]]:
    """The processes and their answers to the job. Ours begins, for the peer takes its weights."""
    with tempfile.TemporaryDirectory(prefix="jaxllm-bench-") as folder:
        weights = str(Path(folder) / "weights.npz") if against else None
        tell("starting and compiling jaxllm")
        job = subject.job() | {"save_weights": weights}
        ours = stack.enter_context(Worker("jaxllm", OURS, job, ROOT))
        begun = ours.begin()
        if against is None:
            return [ours], [begun]
        if begun["platform"] not in ("cpu", "gpu"):
            raise InputError(
                f"JAX runs on a {begun['platform']} here, where {against.name} cannot; leave --against out."
            )
        tell(f"starting {against.name}")
        job = subject.job() | {"load_weights": weights, "peer": against.path, "platform": begun["platform"]}
        peer = stack.enter_context(Worker(against.name, [against.python, str(PEERS[against.name].script)], job))
        return [ours, peer], [begun, peer.begin()]
