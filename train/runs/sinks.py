"""Sinks: programs that show a run's numbers as they come. metrics.jsonl is the source, and a sink gets a copy.

`train.sink` names one of `SINKS`: a function of the run folder, the config and the steps done that returns an object
with `write(record)` and `close()`. Its package is imported only then. A sink that fails is left out from there on.
"""

import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, replace_file

from ..errors import reason
from .folder import RunFolder
from .metrics import Record, read_metrics

PROJECT = "jaxllm"  # at trackio and Weights & Biases; WANDB_PROJECT and TRACKIO_PROJECT name another
EVENTS = "tensorboard.summary.writer.event_file_writer"


class Sink(Protocol):
    """What shows the numbers of a run."""

    def write(self, record: Record) -> None:
        """Take a record of metrics.jsonl, or the `step` of an earlier one with what was measured later."""

    def close(self) -> None:
        """End it; all that was written arrives."""


Open = Callable[[RunFolder, Mapping[str, Any], int], Sink]


class TensorBoard:
    """Event files in the folder `tensorboard` of a run."""

    def __init__(self, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        """Events of steps after `done`, of a run that has been resumed, are dropped by TensorBoard."""
        self._events: Any = import_module("tensorboard.compat.proto.event_pb2")
        self._summaries: Any = import_module("tensorboard.compat.proto.summary_pb2")
        self._file = import_module(EVENTS).EventFileWriter(str(folder.tensorboard))
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._add(done + 1, session_log=start)

    def write(self, record: Record) -> None:
        scalar = self._summaries.Summary.Value
        values = [scalar(tag=name, simple_value=value) for name, value in numbers(record).items()]
        self._add(record["step"], summary=self._summaries.Summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        self._file.add_event(self._events.Event(wall_time=time.time(), step=step, **content))
        self._file.flush()


class Tracker:
    """A run at Weights & Biases or at trackio, which has the same functions. It is found again by the run's id."""

    def __init__(self, module: str, folder: RunFolder, config: Mapping[str, Any]) -> None:
        """Of a run that has been resumed, steps that were written before are not written again."""
        resumed = folder.sink_id.exists()
        if not resumed:
            name = re.sub(r"[^\w.-]", "-", folder.path.absolute().name, flags=re.ASCII)
            replace_file(folder.sink_id, f"{name}-{uuid.uuid4().hex[:8]}\n".encode())
        name = read_file(folder.sink_id).decode().strip()
        self._written = max((record["step"] for record in read_metrics(folder.metrics)), default=0) if resumed else 0
        more = {"id": name, "dir": str(folder.path), "reinit": "create_new"} if module == "wandb" else {}
        project = os.environ.get(f"{module.upper()}_PROJECT", PROJECT)
        self._run = import_module(module).init(
            project=project, name=name, config=dict(config), resume="allow", **more
        )  # fmt: skip

    def write(self, record: Record) -> None:
        if record["step"] > self._written or "train_loss" not in record:
            self._run.log(numbers(record), step=record["step"])

    def close(self) -> None:
        self._run.finish()


# By `train.sink`, whose values TrainConfig lists: the module that must be there, and what opens the sink.
SINKS: dict[str, tuple[str, Open]] = {
    "tensorboard": (EVENTS, TensorBoard),
    "trackio": ("trackio", lambda folder, config, _: Tracker("trackio", folder, config)),
    "wandb": ("wandb", lambda folder, config, _: Tracker("wandb", folder, config)),
}


ONE_AT_A_TIME = ("trackio",)  # whose `init` finishes the run before


def numbers(record: Record) -> dict[str, float]:
    """The numbers of a record but its step; what a step that was left out does not have is not among them."""
    return {name: value for name, value in record.items() if name != "step" and isinstance(value, int | float)}


def check_sink(name: str | None) -> None:
    """Raises InputError if the package of that sink cannot be imported."""
    if name is None:
        return
    try:
        import_module(SINKS[name][0])
    except ImportError as error:
        raise InputError(
            f"train.sink is {name!r}, but its package cannot be imported ({reason(error)}); "
            f"pip install 'jaxllm[{name}]', or leave train.sink out."
        ) from None


class Guarded:
    """A sink that never ends a run: where it fails, a line says so, and nothing more is written to it."""

    def __init__(self, name: str | None, folder: RunFolder, config: Mapping[str, Any], done: int) -> None:
        """Open the sink of that name; none for None."""
        self._name, self._sink = name, None
        if name is not None:
            self._sink = self._tried(lambda: SINKS[name][1](folder, config, done))

    def write(self, record: Record) -> None:
        """As `Sink.write`."""
        if sink := self._sink:
            self._tried(lambda: sink.write(record))

    def close(self) -> None:
        """As `Sink.close`."""
        if sink := self._sink:
            self._tried(sink.close)

    def _tried(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:  # of any type that a package or its network raises
            self._sink = None
            print(
                f"note: {self._name} failed ({reason(error)}); the run goes on without it", file=sys.stderr, flush=True
            )
            return None
