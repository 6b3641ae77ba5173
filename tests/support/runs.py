"""A run that is small enough to train in a test, and comparisons of runs."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from train.ideas import Code
from train.runs.load import load_run

TEXT = "the cat sat on the mat. " * 60
TINY = """
[tokenizer]
kind = "char"
[model]
context_length = 8
d_model = 16
n_layers = 1
n_heads = 2
dropout = 0.1
[train]
steps = 12
batch_size = 4
grad_accumulation = 2
[optimizer]
warmup_steps = 2
learning_rate = 1e-2
[eval]
every = 4
sample_tokens = 12
[checkpoint]
every = 5
"""


def write_config(folder: Path) -> Path:
    """Write a text and a config that uses it into that folder."""
    (folder / "text.txt").write_text(TEXT)
    config = folder / "tiny.toml"
    config.write_text(f'[data]\nsource = "{folder}/text.txt"\n{TINY}')
    return config


class Step:
    """A function in place of a compiled training step."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.call = call

    def __call__(self, state: Any, *batch: object) -> Any:
        return self.call(state, *batch)

    def memory_analysis(self) -> None:
        """Unknown."""


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without_times(run: Path) -> list[dict[str, Any]]:
    times = {"elapsed_s", "tokens_per_s", "data_wait_s"}
    return [{k: v for k, v in record.items() if k not in times} for record in lines(run)]


def assert_same_run(a: Path, b: Path) -> None:
    """Assert that metrics, samples, parameters and optimizer are equal to the bit."""
    assert_same_run_with(None, a, b)


def assert_same_run_with(code: Code | None, a: Path, b: Path) -> None:
    """As `assert_same_run`, of runs with a user's functions."""
    assert without_times(a) == without_times(b)
    ours, theirs = (folder / "samples.txt" for folder in (a, b))  # a classifier writes none
    assert ours.exists() == theirs.exists()
    assert not ours.exists() or ours.read_text() == theirs.read_text()
    ours, theirs = (load_run(folder, with_optimizer=True, code=code) for folder in (a, b))
    assert ours.step == theirs.step
    states = ((r.params, r.opt_state) for r in (ours, theirs))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y), strict=True), *states)


@contextmanager
def piped(path: Path) -> Iterator[None]:
    """Standard output buffered as for a pipe: what is written stays in the process until it is flushed."""
    with open(path, "wb") as file, io.TextIOWrapper(io.BufferedWriter(file.raw, 2**16)) as stream:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            yield
