"""A tuning by two processes, on the loopback address."""

from pathlib import Path

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from imported_runs import imported
from processes import ended, free_address, member
from runs import without_times

from train.runs.load import load_run
from train.runs.manifest import read_manifest

pytestmark = pytest.mark.newest

CONFIG = """
[init]
from = "{folder}/base"
[data]
source = "{folder}/examples.jsonl"
[tune]
kind = "instruct"
[lora]
rank = 2
[train]
steps = 2
batch_size = 4
[optimizer]
warmup_steps = 1
[eval]
sample_tokens = 1
[parallel]
fsdp = 2
"""


def test_two_processes_leave_the_bits_of_two_devices(tmp_path: Path) -> None:
    """Frozen maps of the base, of which each process has a part, included."""
    imported(tmp_path / "base")
    (tmp_path / "examples.jsonl").write_text('{"prompt": "ab", "answer": "ba"}\n' * 20)
    config, run, devices = tmp_path / "small.toml", tmp_path / "run", tmp_path / "devices"
    config.write_text(CONFIG.format(folder=tmp_path))
    address, words = free_address(), ["train", str(config), "--out"]
    first, second = ended([[*words, str(run), *member(address, i, 2)] for i in range(2)])
    (alone,) = ended([[*words, str(devices)]], devices=2)
    assert [first.code, second.code, alone.code] == [0, 0, 0], first.error + second.error + alone.error
    assert without_times(run) == without_times(devices)
    assert (run / "samples.txt").read_bytes() == (devices / "samples.txt").read_bytes()
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in devices.iterdir())
    ours, theirs = (flatten_dict(load_run(path).params) for path in (run, devices))
    for path, leaf in ours.items():
        np.testing.assert_array_equal(leaf, theirs[path])
    assert not [name for name in read_manifest(run / "checkpoints" / "2").arrays if name.endswith("kernel")]
