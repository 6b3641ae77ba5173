"""The mutations of `tests/tools/slips` still fit the code and the tests. Only `tests/tools/mutate.py` runs them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mutate import Failure, Outcome, noticed
from slips import MUTATIONS, Mutation, stale

ROOT = Path(__file__).parents[2]


def test_every_text_occurs_once_and_every_test_exists() -> None:
    assert stale(MUTATIONS) == []
    assert len({(one.file, one.old, one.new) for one in MUTATIONS}) == len(MUTATIONS)


def test_whatever_is_stale_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text("def test_one(): pass\n")
    (tmp_path / "code.py").write_text("x = 1\ny = 1\n")
    right = Mutation("fits", "code.py", "x = 1", "x = 2", "test_a.py::test_one[a-1]")
    wrong = [
        right._replace(what="gone", old="z = 1"),
        right._replace(what="twice", old="= 1"),
        right._replace(what="no file", file="none.py"),
        right._replace(what="no change", new="x = 1"),
        right._replace(what="no test", test="test_a.py::test_two[a-1]"),
        right._replace(what="no test file", test="test_b.py::test_one"),
    ]
    assert [fault.partition(":")[0] for fault in stale([right, *wrong], tmp_path)] == [one.what for one in wrong]


ASSERTED = Failure("call", True, "AssertionError: a is not b\nassert a == b")


@pytest.mark.parametrize(
    ("failures", "sign", "want"),
    [
        ([], "", False),
        ([ASSERTED], "", True),
        ([ASSERTED], "a is not b", True),
        ([ASSERTED], "assert a == b", True),
        ([ASSERTED], "assert b == a", False),
        ([ASSERTED._replace(when="setup")], "", False),
        ([Failure("collect", False, "ImportError: no")], "", False),
        ([Failure("call", False, "NameError: no")], "", False),
        ([Failure("call", False, "ValueError: no room")], "ValueError: no room", True),
    ],
)
def test_only_the_expected_failure_counts(failures: list[Failure], sign: str, want: bool) -> None:
    mutation: Any = SimpleNamespace(sign=sign)
    assert noticed(mutation, Outcome(mutation, 1, failures, "")) is want


LEFT_OUT = {  # modules without logic of their own, or whose logic no quick test can be wrong about
    "jaxllm/__init__.py", "jaxllm/array.py", "jaxllm/compare/__init__.py", "jaxllm/compare/foreign/__init__.py", "jaxllm/data/__init__.py", "jaxllm/fast/__init__.py", "jaxllm/fast/native/__init__.py", "jaxllm/utils/__init__.py",
    "jaxllm/reference/fast/__init__.py", "jaxllm/tokenizers/formats/__init__.py", "train/commands/__init__.py",
    "train/plan/__init__.py", "train/runs/__init__.py", "train/parallel/__init__.py", "train/runtime/__init__.py", "jaxllm/pretrained/__init__.py",
    "jaxllm/reference/__init__.py", "jaxllm/tokenizers/__init__.py", "train/__init__.py", "train/__main__.py",
    "train/bench/__init__.py", "train/learn/__init__.py", "train/learn/checking/__init__.py", "train/learn/page/__init__.py",
    "train/learn/training/__init__.py", "train/learn/pieces/__init__.py", "train/tasks/__init__.py", "train/tune/__init__.py",
    "train/tasks/harness.py",  # another program, in an extra
    # as `train_report` and `train_recording`, and names of processors
    "train/bench/generate.py", "train/bench/generate_report.py", "train/bench/train.py",
    "train/bench/tokenizer.py", "train/bench/machine.py",
    "train/bench/speedrun_plot.py",  # a picture
    "train/commands/bench.py",
    "train/plan/this_machine.py",  # measurements
    "train/bench/peers/__init__.py", "train/bench/peers/hf.py", "train/bench/peers/hf_writer.py", "train/bench/peers/nanogpt.py",
    "train/bench/peers/nanogpt_losses.py", "train/bench/peers/nanogpt_writer.py", "train/bench/peers/protocol.py", "train/bench/peers/torch_worker.py",
    "train/bench/peers/torch_writer.py",  # other programs, in their Python
}  # fmt: skip


def test_every_module_is_broken_somewhere() -> None:
    modules = {str(path.relative_to(ROOT)) for name in ("jaxllm", "train") for path in (ROOT / name).rglob("*.py")}
    broken = {one.file for one in MUTATIONS}
    assert modules - broken == LEFT_OUT & modules and not broken & LEFT_OUT
