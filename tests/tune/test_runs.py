"""Runs that begin from a base: stopped and resumed, with the base moved or changed, from an adapter, in a sweep."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import imported
from runs import assert_same_run, lines
from tuned_runs import ended_after, resume, tune

from train.runs.load import load_run

pytestmark = [pytest.mark.newest, pytest.mark.usefixtures("quick_compilation")]
LORA = ("lora.rank=2", "lora.targets=query|up", "lora.dropout=0.1")
AVERAGED = ("optimizer.name=schedule_free_adamw", "optimizer.schedule=constant")
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "full, packed": ("instruct", ("tune.packing=true", "train.window=64")),
    "adapters, averaged": ("instruct", (*LORA, *AVERAGED)),
    "classify": ("classify", ()),
    "prefer, beside int8": ("prefer", (*LORA, "lora.base=int8")),
}


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters, beside its base."""
    folder = tmp_path_factory.mktemp("adapted")
    assert tune(imported(folder / "base"), "instruct", folder / "run", *LORA) == 0
    return folder / "run"


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_ended_goes_on_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """Where all parameters change, without the base."""
    (kind, options), base = RUNS[name], imported(tmp_path / "base")
    assert tune(base, kind, tmp_path / "whole", *options) == 0
    with ended_after(3):
        assert tune(base, kind, tmp_path / "run", *options) == 143
    assert lines(tmp_path / "run")[-1]["step"] == 3
    if not load_run(tmp_path / "run").config.lora.rank:
        shutil.rmtree(base)
    assert resume(tmp_path / "run") == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
