"""The list of quick tests fits the tests."""

import ast
import re
from pathlib import Path

import pytest
from quick import QUICK, is_quick

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("file", QUICK)
def test_every_entry_is_of_a_test(file: str) -> None:
    body = ast.parse((TESTS / file).read_text(encoding="utf-8")).body
    names = [node.name for node in body if isinstance(node, ast.FunctionDef)]
    for pattern in QUICK[file]:
        beginning = re.match(r"\w+", pattern)
        assert beginning and any(name.startswith(beginning[0]) for name in names), pattern


def test_every_room_has_a_part() -> None:
    rooms = {path.parent.name for path in TESTS.glob("*/test_*.py")}
    assert {file.partition("/")[0] for file in QUICK} == rooms


def test_a_test_is_chosen_by_the_beginning_of_its_name() -> None:
    assert is_quick("tests/model/test_twins.py::test_agrees_with_twin[loss.head_loss-0-float64-jit]")
    assert not is_quick("tests/model/test_twins.py::test_agrees_with_twin[loss.head_loss-0-float32-jit]")
    assert is_quick("tests/model/test_attention.py::test_wrong_shapes_are_named")
    assert not is_quick("tests/training/test_crash.py::test_killed")
    assert is_quick("jaxllm/data/windows.py::jaxllm.data.windows.input_target_pairs")
