"""A run by several processes, by `jax.distributed`: how they find each other, and what each does when one has ended.

Process 0 hosts JAX's coordination service, which waits for all processes at the start and hears a heartbeat of each. By
default it aborts all of them when one is missing; `native_output` turns that into a sentence. Private names of JAX are
used only here: the service's client, for its table of strings and its barrier, and two arguments of its start.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, cast

import jax

from jaxllm.utils.errors import InputError, printable, shown

from .native_output import FATAL, native_output_read

START_S = 60  # in which all processes must have come
HEARTBEAT_S = 40  # without a heartbeat of a process it counts as dead
END_S = 60  # for which a process that is done waits for the others
TOGETHER_S = 10  # in which all have come to an end that they share
LOOK_MS = 1000  # after which one that waits for another looks whether it has failed
LONG_MS = 2**31 - 1  # a process that is alive is waited for; for one that is not, the service ends the wait
MISSING = "Some timed out task names:"
KEYS, FAILED, MOST = "jaxllm", "failed", 1000  # names in the service's table, and characters of a value
BROKEN = (RuntimeError, ValueError)  # errors of the service
LOST = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")  # errors of a lost connection


class Rank(NamedTuple):
    """Which process this is, of how many."""

    process: int
    processes: int
    coordinator: str | None  # HOST:PORT; None: SLURM says

    @property
    def where(self) -> str:
        """Where process 0 is, in words."""
        return self.coordinator or f"the first node of SLURM_STEP_NODELIST = {os.environ.get('SLURM_STEP_NODELIST')}"


def rank(coordinator: str | None, process: int | None, count: int | None) -> Rank | None:
    """The process that the options of the command, or SLURM, say this is; None for a run by one process.

    Raises InputError where some of the options are missing or wrong.
    """
    given = {"--coordinator": coordinator, "--process-id": process, "--num-processes": count}
    if missing := [name for name, value in given.items() if value is None]:
        if len(missing) < len(given):
            raise InputError(f"{' and '.join(missing)} missing; give all of {', '.join(given)}, or none of them.")
        return rank_by_slurm(os.environ)
    assert coordinator is not None and process is not None and count is not None
    if not 1 <= count <= 2**20:
        raise InputError(f"--num-processes is {count}, but there must be at least 1.")
    if not 0 <= process < count:
        raise InputError(f"--process-id is {process}, but with --num-processes {count} the ids are 0 to {count - 1}.")
    host, _, port = coordinator.rpartition(":")
    if not (host and port.isdecimal() and 1 <= int(port) < 2**16):
        raise InputError(
            f"--coordinator is {shown(coordinator)}, but it must be HOST:PORT of process 0, such as 10.0.0.1:1234."
        )
    return Rank(process, count, coordinator) if count > 1 else None


def rank_by_slurm(environment: Mapping[str, str]) -> Rank | None:
    """The process that SLURM's `srun` has started this as; None for a job step of one, such as the shell of a job.

    A job has as many tasks as its largest step may have, and its shell is a step too.
    """
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_ID", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
    if not all(name in environment for name in names):
        return None
    count = int(environment.get("SLURM_STEP_NUM_TASKS", environment["SLURM_NTASKS"]))
    return Rank(int(environment["SLURM_PROCID"]), count, None) if count > 1 else None


class Processes:
    """The processes of a run, seen from one of them."""

    def __init__(self, rank: Rank | None = None) -> None:
        """Only this one, without a rank."""
        self._rank = rank
        self.index, self.count = (rank.process, rank.processes) if rank else (0, 1)
        self.joined = False
        self.how_to_go_on: Callable[[], str] = lambda: "nothing is saved yet"

    def compare(self, what: str, mine: Mapping[str, Any], remedy: str) -> None:
        """Wait until all processes have come here. `what` names the place, differently each time.

        Raises InputError in every process for the first of the values that one has otherwise than process 0, and where
        one has ended with an error.
        """
        if self.count == 1:
            return
        _client().key_value_set(f"{KEYS}/{what}/{self.index}", json.dumps(dict(mine), default=str))
        first = _said(what, 0)
        for other in (self.index, *range(1, self.count)):  # its own first, in case it waits for some that do not exist
            theirs = _said(what, other)
            for name in (name for name in first if first[name] != theirs.get(name)):
                raise InputError(
                    f"{name} is {shown(first[name])} in process 0, but {shown(theirs.get(name))} in process {other}; "
                    f"{remedy}."
                )

    def end(self, text: str, error: int) -> None:
        """End this process with a sentence on the descriptor `error`, for a text of JAX's coordination service."""
        assert self._rank is not None
        text = text[text.index(FATAL) :]
        sentence = dead(text, self._rank) if self.joined else absent(text, self._rank)
        if self.joined:
            time.sleep(2 * (self.index == 0))  # the others hear of it from the service in this process
            sentence = f"{sentence}; {self.how_to_go_on()}"
        os.write(error, f"jaxllm train: {sentence}\n".encode())
        os._exit(1 if self.joined else 2)


ALONE = Processes()


def absent(text: str, rank: Rank) -> str:
    """The sentence for what the service says where it could not start."""
    if missing := named(text, MISSING):
        return (
            f"{these(missing, rank.processes)} not come to {rank.where} within {START_S} s; start "
            "every process within that time, each with an id of its own, and see that it reaches that address."
        )
    if "more recent" in text or "ALREADY_EXISTS" in text or "incarnation" in text:
        return (
            f"another process has come to {rank.where} with --process-id {rank.process}; give each of the "
            f"{rank.processes} processes an id of its own, and each run a port of its own."
        )
    if "INVALID_ARGUMENT" in text:
        return (
            f"process 0 at {rank.where} expects no process {rank.process}; give all processes the same "
            f"--num-processes, which is {rank.processes} here."
        )
    return (
        f"nobody answers at {rank.where} within {START_S} s; start process 0 there within that time, and see that its "
        "port can be reached."
    )


def dead(text: str, rank: Rank) -> str:
    """The sentence for what the service says of a process that has ended; process 0 takes the service with it."""
    if again := re.search(r"(\d+) unexpectedly tried to connect", text):
        return (
            f"another process has come to {rank.where} with --process-id {again[1]}, which ends the run; give each of "
            f"the {rank.processes} processes an id of its own, and each run a port of its own"
        )
    silent = named(text, "stopped sending heartbeats):") or named(text, MISSING) or [0]
    return f"{these(silent, rank.processes)} ended"


def named(text: str, headline: str) -> list[int]:
    """The numbers on the lines that follow a headline."""
    lines = re.search(re.escape(headline) + r"\n((?:\d+\n)+)", text)
    return sorted(set(map(int, lines[1].split()))) if lines else []


def these(processes: list[int], count: int) -> str:
    """`process 2 of 4 has`, `processes 1 and 2 of 4 have`."""
    *most, last = map(str, processes)
    return f"processes {', '.join(most)} and {last} of {count} have" if most else f"process {last} of {count} has"


@contextmanager
def joined(rank: Rank | None) -> Iterator[Processes]:
    """Yields the processes of the run, once all have come; they are in touch until all leave it.

    Call it before anything computes. A process that does not find the others, or loses one, ends with a sentence.
    """
    processes = Processes(rank)
    if rank is None:
        yield processes
        return
    with native_output_read(processes.end):
        _initialize(rank)
        processes.joined = True
        try:
            processes.compare("number", {"--num-processes": rank.processes}, "give the same to every process")
            yield processes
        except BaseException as error:
            _wait_for_the_reason(error)
            with suppress(*BROKEN):
                _client().key_value_set(f"{KEYS}/{FAILED}/{processes.index}", printable(str(error), MOST))
                _client().wait_at_barrier(f"{KEYS}/stopped", TOGETHER_S * 1000)  # where all of them were stopped
                jax.distributed.shutdown()
            raise
        with suppress(*BROKEN):  # nothing is lost where they do not part well
            _client().wait_at_barrier(f"{KEYS}/done", LONG_MS)
            jax.distributed.shutdown()


def _said(what: str, process: int) -> dict[str, Any]:
    """What a process has said, once it has. Raises InputError where one has failed."""
    while True:
        try:
            said = _client().blocking_key_value_get(f"{KEYS}/{what}/{process}", LOOK_MS)
            return cast(dict[str, Any], json.loads(said))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
        for key, message in _client().key_value_dir_get(f"{KEYS}/{FAILED}/"):
            raise InputError(f"process {key.rpartition('/')[2]} has ended: {message}")


def _client() -> Any:
    from jax._src import distributed  # private, and needed for several processes only

    return distributed.global_state.client


def _initialize(rank: Rank) -> None:
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `signals`
    with (
        _changed("get_distributed_runtime_service", cluster_register_timeout=START_S),  # it then says who is missing
        _changed("get_distributed_runtime_client", shutdown_on_destruction=False),  # it would wait for the others
    ):
        try:
            jax.distributed.initialize(
                rank.coordinator, rank.processes, rank.process, initialization_timeout=START_S,
                heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=END_S,
            )  # fmt: skip
        except (RuntimeError, ValueError) as error:
            raise InputError(
                f"process {rank.process} cannot begin at {rank.where}: {printable(' '.join(str(error).split()), 300)}"
            ) from None


@contextmanager
def _changed(name: str, **more: Any) -> Iterator[None]:
    """Within it a function of JAX's runtime gets arguments that `jax.distributed.initialize` does not take."""
    from jax._src.lib import _jax

    function = getattr(_jax, name)
    setattr(_jax, name, partial(function, **more))
    try:
        yield
    finally:
        setattr(_jax, name, function)


def _wait_for_the_reason(error: BaseException) -> None:
    """Where a connection to another process broke, wait until the service says which has ended, and ends this one."""
    if not isinstance(error, InputError) and any(word in str(error) for word in LOST):
        time.sleep(2 * HEARTBEAT_S)
