"""Where the time of a training step goes: `jaxllm train CONFIG --profile N`.

JAX records what ran and when (a trace). XLA's text of the compiled program says which line of Python each operation
came from. Both use the same names of operations, so `profile_table` joins the two; it runs nothing.
"""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
from jax.stages import Compiled

WARM_UP = 2  # steps before the first recorded one: their memory and caches are cold
ROWS = 20  # printed
MOST_EVENTS = 1_000_000  # XLA writes no more into a trace.json.gz
NOWHERE = "not in any operation"
CONTAINERS = ("while", "conditional", "call")  # operations inside them are recorded as well

Event = dict[str, Any]
Result = TypeVar("Result")


@dataclass(frozen=True)
class ProfileRow:
    """Operations of one kind from one line of the source."""

    ms: float  # per step
    share: float  # of the step's time
    calls: float  # per step
    kind: str  # "dot", "broadcast_multiply_fusion"; NOWHERE
    source: str  # "jaxllm/layers.py:41 _product_forward"; the path of names where no line is known


class Span(NamedTuple):
    """An operation's time on the clock of the trace, in microseconds."""

    begin: float
    end: float
    name: str  # as in the program's text
    program: str


def profile_table(trace_events: Sequence[Event], hlo_text: str, n_steps: int) -> list[ProfileRow]:
    """The time of `n_steps` steps of the compiled program by operation, the longest first and NOWHERE last.

    Operations overlap: while several run, each is given an equal part of the time, so the rows add up to the time from
    the start of the first operation to the end of the last. Other programs, such as an evaluation between two steps,
    get a row each. Empty if no operation was recorded, or none that took any time.
    """
    operations = read_operations(hlo_text)
    program = re.sub(r"HloModule ([^\s,]+).*", r"\1", hlo_text.split("\n", 1)[0])
    containers = {name for name, (opcode, _) in operations.items() if opcode in CONTAINERS}
    spans = [s for s in recorded(trace_events) if s.program != program or s.name not in containers]
    total = max((s.end for s in spans), default=0.0) - min((s.begin for s in spans), default=0.0)
    if total <= 0:
        return []

    def row_of(span: Span) -> tuple[str, str]:
        if span.program not in (program, ""):
            return "another program", span.program
        return re.sub(r"([._]\d+)+$", "", span.name), operations.get(span.name, ("", ""))[1]

    time: dict[tuple[str, str], float] = defaultdict(float)
    calls: dict[tuple[str, str], int] = defaultdict(int)
    for span, us in zip(spans, shared_time(spans), strict=True):
        time[row_of(span)] += us
        calls[row_of(span)] += 1
    rows = [ProfileRow(us / 1e3 / n_steps, us / total, calls[key] / n_steps, *key) for key, us in time.items()]
    idle = total - sum(time.values())
    return sorted(rows, key=lambda row: -row.ms) + [ProfileRow(idle / 1e3 / n_steps, idle / total, 0, NOWHERE, "")]


def recorded(events: Iterable[Event]) -> list[Span]:
    """The operations in a trace: those on the streams of an accelerator if there is one, else the CPU's.

    On a CPU the event of a matrix product covers its start only, and other threads finish it; a second event, such as
    "end: dot.7", marks its end. On a GPU the trace has the same times again on rows derived from the streams; those
    are not read.
    """
    events = list(events)
    names = {(e["name"], e.get("pid"), e.get("tid")): e["args"]["name"] for e in events if e.get("ph") == "M"
             and e.get("name") in ("process_name", "thread_name")}  # fmt: skip
    devices = {pid for (what, pid, _), name in names.items() if what == "process_name" and name.startswith("/device:")}
    streams = {(pid, tid) for (what, pid, tid), name in names.items()
               if what == "thread_name" and pid in devices and name.startswith("Stream")}  # fmt: skip
    timed = [e for e in events if e.get("ph") == "X"]
    if streams:
        return [_span(e) for e in timed if (e["pid"], e["tid"]) in streams]
    ends: dict[str, list[float]] = defaultdict(list)
    for event in sorted(timed, key=lambda e: -e["ts"]):
        if event["name"].startswith("end: "):
            ends[event["name"].removeprefix("end: ")].append(event["ts"])
    spans = sorted(_span(e) for e in timed if "hlo_op" in e.get("args", {}))
    return [s._replace(end=max(s.end, ends[s.name].pop())) if ends[s.name] else s for s in spans]


def _span(event: Event) -> Span:
    args = event.get("args", {})
    end = event["ts"] + event.get("dur", 0.0)
    return Span(event["ts"], end, args.get("hlo_op", event["name"]), args.get("hlo_module", ""))


def shared_time(spans: Sequence[Span]) -> list[float]:
    """Microseconds of each span, where every moment is divided evenly among the spans that contain it.

    A span of no length gets 0.
    """
    lasting = [(i, s) for i, s in enumerate(spans) if s.end > s.begin]
    edges = sorted(edge for i, s in lasting for edge in ((s.begin, 1, i), (s.end, 0, i)))
    time, running, before = [0.0] * len(spans), set[int](), 0.0
    for now, begins, i in edges:
        for other in running:
            time[other] += (now - before) / len(running)
        before = now
        (running.add if begins else running.discard)(i)
    return time


def read_operations(hlo_text: str) -> dict[str, tuple[str, str]]:
    """Returns name -> (opcode, source) of the instructions in XLA's text."""
    frames = _Frames(hlo_text)
    operations = {}
    for name, rest in re.findall(r"^ *(?:ROOT )?%([\w.\-]+) = (.*)$", hlo_text, re.MULTILINE):
        opcode = re.search(r" ([a-z][\w\-]*)\(", rest)
        path = re.search(r'op_name="([^"]*)"', rest)
        frame = re.search(r"stack_frame_id=(\d+)", rest)
        source = frames.innermost(int(frame[1])) if frame else ""
        if path and not source:
            source = re.sub(r"(?<=_)\d+(?=/)", "*", path[1])  # the same in all layers
        elif path and "transpose(" in path[1]:
            source += " (backward)"
        operations[name] = (opcode[1] if opcode else "", source)
    return operations


class _Frames:
    """The tables at the top of XLA's text: a frame is a place in a file and the frame that called it."""

    def __init__(self, hlo_text: str) -> None:
        def table(name: str, row: str) -> dict[int, tuple[str, ...]]:
            found = re.search(rf"^{name}\n((?:\d+ .*\n)+)", hlo_text, re.MULTILINE)
            rows = re.findall(rf"^(\d+) {row}", found[1] if found else "", re.MULTILINE)
            return {int(number): tuple(values) for number, *values in rows}

        self._files = table("FileNames", '"(.*)"')
        self._functions = table("FunctionNames", '"(.*)"')
        self._places = table("FileLocations", r"{file_name_id=(\d+) function_name_id=(\d+) line=(\d+)")
        self._frames = table("StackFrames", r"{file_location_id=(\d+) parent_frame_id=(\d+)")

    def innermost(self, frame: int) -> str:
        """`jaxllm/layers.py:41 _product_forward`, the innermost place in jaxllm or the user's code; "" if none."""
        while frame in self._frames:
            place, parent = map(int, self._frames[frame])
            file, function, line = map(int, self._places[place])
            name = self._files[file][0]
            if _ours(name):
                return f"{_short(name)}:{line} {self._functions[function][0].rpartition('<locals>.')[2]}"
            frame = parent - 1  # XLA writes 1 for none
        return ""


def _ours(file: str) -> bool:
    """Whether the file is jaxllm's or the user's, not Python's or another package's."""
    package = re.search(r"/(?:site|dist)-packages/(.*)", file)
    if package:
        return package[1].startswith(("jaxllm/", "jaxllm_train/"))
    return not file.startswith("<") and not re.search(r"/lib/python3\.\d+/", file)


def _short(file: str) -> str:
    return re.sub(r".*/(?=(?:jaxllm|train|jaxllm_train)/)", "", file)


def describe_table(rows: Sequence[ProfileRow], n_steps: int) -> list[str]:
    """The lines to be printed."""
    if not rows:
        return ["the trace holds no operation, so there is no table"]
    first, rest, nowhere = rows[:-1][:ROWS], rows[:-1][ROWS:], rows[-1]
    lines = [
        f"{n_steps} steps profiled, {sum(row.ms for row in rows):.2f} ms each; while operations run at once, each is "
        "given an equal part of the time",
        f"{'ms':>9}{'share':>9}{'calls':>8}  {'operation':<34}source",
    ]
    lines += [f"{r.ms:9.3f}{r.share:9.1%}{r.calls:8.6g}  {r.kind:<34}{r.source}" for r in first]
    if rest:
        ms, share, calls = (sum(column) for column in zip(*((r.ms, r.share, r.calls) for r in rest), strict=True))
        lines.append(f"{ms:9.3f}{share:9.1%}{calls:8.6g}  {len(rest)} smaller rows")
    return [*lines, f"{nowhere.ms:9.3f}{nowhere.share:9.1%}{'':8}  {NOWHERE}"]


@contextmanager
def profiled(n_steps: int | None, folder: Path) -> Iterator["Recorder"]:
    """Yields a Recorder of `n_steps` steps; of none for None.

    Compile what is to be recorded within it. Source lines are then part of the key of JAX's compilation cache; a
    cached program could otherwise carry the line numbers of older code.
    """
    recorder = Recorder(n_steps or 0, folder)
    lines_in_key = jax.config.jax_compilation_cache_include_metadata_in_key
    jax.config.update("jax_compilation_cache_include_metadata_in_key", lines_in_key or bool(n_steps))
    try:
        yield recorder
    finally:
        recorder.stop()
        jax.config.update("jax_compilation_cache_include_metadata_in_key", lines_in_key)


class Recorder:
    """Calls the steps and records them from call WARM_UP + 1 on; once `complete`, `show` prints the table."""

    def __init__(self, n_steps: int, folder: Path) -> None:
        self._n_steps, self._folder = n_steps, folder
        self._calls = 0
        self._recording = False

    def __call__(self, step: Callable[..., Result], *arguments: Any) -> Result:
        """Returns `step(*arguments)`."""
        self._calls += 1
        if self._n_steps and self._calls == WARM_UP + 1:
            jax.block_until_ready(arguments)
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # Python's calls would fill up the trace
            jax.profiler.start_trace(self._folder, profiler_options=options)
            self._recording = True
        return step(*arguments)

    @property
    def complete(self) -> bool:
        """Whether the last call was the last one to be recorded."""
        return self._recording and self._calls == WARM_UP + self._n_steps

    def stop(self) -> None:
        """Write the trace, also of an interrupted run."""
        if self._recording:
            self._recording = False
            jax.profiler.stop_trace()

    def show(self, step: Compiled, result: Any) -> None:
        """Wait for the step's last result, stop, and print where the time of the step went."""
        jax.block_until_ready(result)
        self.stop()
        newest = max(self._folder.glob("plugins/profile/*/*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
        with gzip.open(newest, "rt", encoding="utf-8") as file:
            events = json.load(file)["traceEvents"]
        print("\n".join(describe_table(profile_table(events, step.as_text() or "", self._n_steps), self._n_steps)))
        if len(events) >= MOST_EVENTS:
            print("note: the trace is full and holds the first of these steps only; profile fewer")
        print(f"the trace is {newest}, for ui.perfetto.dev or TensorBoard", flush=True)
