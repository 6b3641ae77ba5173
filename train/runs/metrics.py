"""metrics.jsonl and samples.txt: what a run writes while it trains, and what a resumed run keeps of it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from jaxllm.utils.errors import InputError
from jaxllm.utils.files import read_file, replace_file
from jaxllm.utils.utf8 import without_mark

Record = dict[str, Any]
SAMPLE = "----- step "  # begins the headline of each sample
SAMPLE_HEADLINE = re.compile(SAMPLE + r"(\d{1,10}), validation loss -?[\d.]+")


class MetricsLine(msgspec.Struct):
    """The checked fields of a line of metrics.jsonl. Other fields are kept as they are."""

    step: int
    elapsed_s: float
    train_loss: float | None
    tokens_per_s: float
    val_loss: float = 0.0
    train_s: float = 0.0
    data_wait_s: float = 0.0


class MetricsFile:
    """metrics.jsonl: one JSON object a step, each line flushed. Its OSErrors name the file."""

    def __init__(self, path: Path, last_step: int) -> None:
        """Open for appending, after dropping the records beyond `last_step`, the step a run resumes from."""
        self.records = [record for record in read_metrics(path) if record["step"] <= last_step]
        self._path = path
        self._rewrite()

    def _rewrite(self) -> None:
        replace_file(self._path, "".join(json.dumps(record) + "\n" for record in self.records).encode())
        self._file = self._path.open("a", encoding="utf-8", newline="\n")

    def write(self, record: Record) -> None:
        """Append a record."""
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
        """Write all lines to the disk: a checkpoint must not outlive the metrics of its steps."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. An error of writing was reported before."""
        with suppress(OSError):
            self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """The records of a metrics.jsonl; a last line cut short by a kill is left out.

    Raises InputError for any other line that is not a record.
    """
    lines = without_mark(read_file(path), path).split(b"\n") if path.exists() else [b""]
    records: list[Record] = []
    for number, line in enumerate(lines[:-1], start=1):  # text after the last newline was cut short
        try:
            record = msgspec.json.decode(line)
            msgspec.convert(record, MetricsLine)
        except (ValueError, RecursionError):
            raise InputError(f"line {number} of {path} is damaged; fix or delete that line.") from None
        records.append(record)
    return records


def add_sample(path: Path, step: int, loss: float, text: str) -> None:
    """Append to samples.txt and write it to the disk."""
    with naming(path), path.open("ab") as file:
        file.write(f"{SAMPLE}{step}, validation loss {loss:.4f}\n{text}\n\n".encode())
        file.flush()
        os.fsync(file.fileno())


def drop_samples(path: Path, last_step: int) -> None:
    """Drop from samples.txt the samples beyond the step a run resumes from, and a last line that was cut short."""
    if not path.exists():
        return
    *lines, _ = read_file(path).decode(errors="replace").split("\n")
    kept, keep = [], True
    for line in lines:
        if headline := SAMPLE_HEADLINE.fullmatch(line):
            keep = int(headline[1]) <= last_step
        kept += [line + "\n"] if keep else []
    replace_file(path, "".join(kept).encode())


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Within it, an OSError of writing to the open file `path` names that file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
