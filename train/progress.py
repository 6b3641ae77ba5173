"""What a run shows and keeps: a progress bar or plain lines, metrics.jsonl, loss.png."""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, replace_file
from jaxllm.utils.utf8 import without_mark

from .plotting import content, new_figure, noted

Record = dict[str, Any]


class Line(msgspec.Struct):
    """What is read of a line of metrics.jsonl; whatever else is in it is kept."""

    step: int
    elapsed_s: float
    train_loss: float | None
    tokens_per_s: float
    val_loss: float = 0.0
    data_wait_s: float = 0.0


class MetricsFile:
    """metrics.jsonl: one JSON object a step, each line flushed. Its OSErrors name it."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Open for appending, after dropping what lies beyond `last_step` (the step a run resumes from)."""
        self.records = [record for record in read_metrics(path) if record["step"] <= last_step]
        self._path = path
        self._rewrite()

    def _rewrite(self) -> None:
        replace_text(self._path, "".join(json.dumps(record) + "\n" for record in self.records))
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, record: Record) -> None:
        self.records.append(record)
        with naming(self._path):
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()

    def amend(self, more: Record) -> None:
        """Add to the last record."""
        self.records[-1] |= more
        self._file.close()
        self._rewrite()

    def sync(self) -> None:
        """Have all lines reach the disk: a checkpoint must not outlive the metrics of its steps."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        with suppress(OSError):  # what could not be written was told before
            self._file.close()


def changed(path: Path) -> float:
    """When a file was last written, in seconds; 0 where there is none."""
    return path.stat().st_mtime if path.exists() else 0.0


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of writing to an open file says which one it was."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def replace_text(path: Path, text: str) -> None:
    """Write a file aside and rename it: whoever reads it sees the old one or the new one whole."""
    replace_file(path, text.encode())


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises InputError for any other line that is not a record.
    """
    lines = without_mark(read_file(path), path).split(b"\n") if path.exists() else [b""]
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was cut short
        try:
            record = msgspec.json.decode(line)
            msgspec.convert(record, Line)
        except (ValueError, RecursionError):
            raise InputError(f"line {number} of {path} is damaged; mend or delete that line.") from None
        records.append(record)
    return records


SAMPLE = "----- step "  # begins the headline of each sample
HEADLINE = re.compile(SAMPLE + r"(\d{1,10}), validation loss -?[\d.]+")


def add_sample(path: Path, step: int, loss: float, text: str) -> None:
    """Append to samples.txt, to the disk."""
    with naming(path), path.open("ab") as file:
        file.write(f"{SAMPLE}{step}, validation loss {loss:.4f}\n{text}\n\n".encode())
        file.flush()
        os.fsync(file.fileno())


def drop_samples(path: Path, last_step: int) -> None:
    """Drop from samples.txt what lies beyond the step a run resumes from, and a last line that was cut short."""
    if not path.exists():
        return
    *lines, _ = read_file(path).decode(errors="replace").split("\n")
    kept, keep = [], True
    for line in lines:
        if headline := HEADLINE.fullmatch(line):
            keep = int(headline[1]) <= last_step
        kept += [line + "\n"] if keep else []
    replace_text(path, "".join(kept))


@contextmanager
def counted(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar for work done one by one, of a number that may be unknown: yields what to tell the number done.

    Elsewhere than on a terminal a line a minute.
    """
    if not sys.stderr.isatty():
        yield _line_by_the_minute(what, total)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _line_by_the_minute(what: str, total: int | None) -> Callable[[int], None]:
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            print(f"{what}: {done:,}{f' of {total:,}' if total else ''}", flush=True)

    return tell


def describe(record: Record) -> str:
    """`step 100  train 2.31  val 2.40  15,000 tokens/s`."""
    train = "left out" if record["train_loss"] is None else f"{record['train_loss']:.4f}"
    val = f"  val {record['val_loss']:.4f}" if "val_loss" in record else ""
    return f"step {record['step']:>6}  train {train}{val}  {record['tokens_per_s']:,.0f} tokens/s"


class Lines:
    """Plain lines for logs and pipes: twenty over the run, and each evaluation."""

    def __init__(self, steps: int) -> None:
        self._every = max(1, steps // 20)

    def step(self, record: Record) -> None:
        if record["step"] == 1 or record["step"] % self._every == 0 or "val_loss" in record:
            print(describe(record), flush=True)

    def note(self, text: str) -> None:
        print(text, flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A progress bar for a terminal, each evaluation as a line above it."""

    def __init__(self, steps: int, done: int) -> None:
        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console())
        self._task = self._progress.add_task("compiling", total=steps, completed=done)
        self._progress.start()

    def step(self, record: Record) -> None:
        if "val_loss" in record:
            self._progress.console.print(describe(record), highlight=False)
        self._progress.update(self._task, completed=record["step"], description=describe(record))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


def progress(steps: int, done: int) -> Lines | Bar:
    """A bar on a terminal, lines elsewhere."""
    return Bar(steps, done) if sys.stdout.isatty() else Lines(steps)


def draw_losses(records: Iterable[Record], path: Path) -> None:
    """Training loss of every step, its running mean, and the validation losses, as a PNG; a note where that fails."""
    records = [record for record in records if record["train_loss"] is not None]
    if records:
        with noted(path):
            replace_file(path, _picture_of_losses(records))


def _picture_of_losses(records: list[Record]) -> bytes:
    figure = new_figure(7, 4, layout="constrained")
    axes = figure.subplots()
    steps, losses = [r["step"] for r in records], [r["train_loss"] for r in records]
    axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(losses), color="tab:blue", label="training (running mean)")
    evaluated = [r for r in records if "val_loss" in r]
    if evaluated:
        last = evaluated[-1]["val_loss"]
        axes.plot(
            [r["step"] for r in evaluated], [r["val_loss"] for r in evaluated],
            "o-", color="tab:orange", label=f"validation (last: {last:.3f})",
        )  # fmt: skip
    axes.set(xlabel="step", ylabel="cross-entropy (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return content(figure, ".png", dpi=120)


def _running_mean(values: list[float], weight: float = 0.95) -> list[float]:
    """Exponential mean, corrected for its start (as Adam's)."""
    out, total, norm = [], 0.0, 0.0
    for value in values:
        total, norm = weight * total + (1 - weight) * value, weight * norm + (1 - weight)
        out.append(total / norm)
    return out
