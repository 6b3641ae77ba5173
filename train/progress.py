"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def counted(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A progress bar over items: yields a function to call with the number done. `total` may be unknown.

    Outside a terminal it is a line a minute.
    """
    if not sys.stderr.isatty():
        yield _line_a_minute(what, total)
        return
    from rich.console import Console  # only here and in `Bar`: where there is no bar, nothing needs rich
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def _line_a_minute(what: str, total: int | None) -> Callable[[int], None]:
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 60:
            last = time.monotonic()
            print(f"{what}: {done:,}{f' of {total:,}' if total else ''}", flush=True)

    return report


def training_progress(steps: int, done: int) -> "Bar | Lines":
    """The display of a training run: a bar on a terminal, lines elsewhere."""
    return Bar(steps, done) if sys.stdout.isatty() else Lines(steps)


class Lines:
    """Plain lines for logs and pipes: twenty over the run, and each evaluation."""

    def __init__(self, steps: int) -> None:
        self._every = max(1, steps // 20)
        self._shown: int | None = None  # twentieths of the schedule

    def step(self, record: dict[str, Any]) -> None:
        """Show a record of metrics.jsonl."""
        now = of_schedule(record)
        before = (now - 1) // self._every if self._shown is None else self._shown
        self._shown = now // self._every
        if record["step"] == 1 or self._shown > before or "val_loss" in record:
            print(record_line(record), flush=True)

    def note(self, text: str) -> None:
        """Print a line."""
        print(text, flush=True)

    def close(self) -> None:
        """Nothing is left to do."""


class Bar:
    """A progress bar for a terminal, each evaluation as a line above it. Methods as of `Lines`."""

    def __init__(self, steps: int, done: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console())
        self._task = self._progress.add_task("compiling", total=steps, completed=done)
        self._progress.start()

    def step(self, record: dict[str, Any]) -> None:
        if "val_loss" in record:
            self._progress.console.print(record_line(record), highlight=False)
        self._progress.update(self._task, completed=of_schedule(record), description=record_line(record))

    def note(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        self._progress.stop()


def of_schedule(record: dict[str, Any]) -> int:
    """How many steps of the schedule are done; with a time limit it may be ahead of the run."""
    return int(record.get("schedule_step", record["step"]))


def record_line(record: dict[str, Any]) -> str:
    """`step 100  train 2.31  val 2.40  15,000 tokens/s`."""
    train = "left out" if record["train_loss"] is None else f"{record['train_loss']:.4f}"
    val = f"  val {record['val_loss']:.4f}" if "val_loss" in record else ""
    val += f"  averaged {record['averaged_val_loss']:.4f}" if "averaged_val_loss" in record else ""
    return f"step {record['step']:>6}  train {train}{val}  {record['tokens_per_s']:,.0f} tokens/s"
