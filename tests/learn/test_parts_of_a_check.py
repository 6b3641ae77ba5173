"""Parts of `jaxllm learn check`, in this process: values on their way to the learner's functions, states, and lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learn.folders import folder

from jaxllm.compare.tolerances import arithmetic
from train.learn.checking.calls import Attempt, Failure, attempted, make_cases
from train.learn.checking.check import Checked, CheckedPiece, check
from train.learn.checking.compare import difference
from train.learn.checking.diagnosis import Diagnosis
from train.learn.checking.grids import argument_lines, comparison_lines
from train.learn.checking.languages import Jax
from train.learn.checking.report import map_lines, piece_lines
from train.learn.checking.trees import places
from train.learn.checking.wire import MOST_NUMBERS, Odd, decode, encode
from train.learn.folder import LearnFolder
from train.learn.piece import Arguments, Function, Piece


def _cases(rng: np.random.Generator) -> Iterator[Arguments]:
    for n in (5, 2, 3):
        yield {"x": rng.normal(size=n)}


FUNCTION = Function("same", lambda x: x.copy(), _cases)
CASES = make_cases(FUNCTION, np.random.default_rng(0))
RIGHT = [Attempt(case.right) for case in CASES]
WRONG = [Attempt(case.right + 1) for case in CASES]
RAISED = [Attempt(failure=Failure("raised", "raises ValueError"))]
UNWRITTEN = [Attempt(failure=Failure("not written", "is not written yet"))]


def piece(name: str, *attempts: list[Attempt], imports: tuple[str, ...] = ()) -> CheckedPiece:
    functions = [Checked(FUNCTION, CASES, each, diagnoses=[Diagnosis((), "is wrong")] * (each is WRONG)) for each in attempts]  # fmt: skip
    return CheckedPiece(Piece(name, name.title(), "", ()), functions, list(imports))


@pytest.mark.parametrize(
    "value",
    [
        [True, None, 2**70, -3, 0.1, -0.0, float("inf"), "a\ud800", b"\xff"],
        {"a": (1, [2, ()]), 3: {}},
        np.arange(6.0).reshape(2, 3),
        np.array([[True], [False]]),
        np.float32(0.5),
        (np.zeros((0, 3), np.int64), Odd("a set")),
    ],
)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    back = decode(json.loads(json.dumps(encode(value))))
    assert type(back) is type(value) and repr(back) == repr(value)


def test_an_array_of_the_other_order_of_bytes() -> None:
    assert decode(encode(np.arange(3, dtype=">i4"))).tolist() == [0, 1, 2]


def test_what_is_too_large_is_not_sent() -> None:
    back = decode(encode(np.zeros(MOST_NUMBERS + 1, bool)))
    assert isinstance(back, Odd) and back.what == f"an array of the shape ({MOST_NUMBERS + 1},)"
    read: list[Any] = []
    back = decode(encode([[1.0], [2.0] * MOST_NUMBERS], lambda leaf: read.append(leaf) or leaf))
    assert back == [[1.0], Odd("a value of the type list")] and read == [1.0]


def test_the_places_of_a_tree_begin_at_the_top() -> None:
    assert list(places({"a": {"b": [1]}})) == [(("a", "b", 0), 1)]


def test_the_smallest_case_comes_first() -> None:
    assert [case.size for case in CASES] == [2, 3, 5]


def test_a_seed_makes_the_inputs_of_a_piece_whichever_others_are_checked(tmp_path: Path) -> None:
    def inputs(names: list[str], seed: int) -> list[Arguments]:
        one = check(LearnFolder(tmp_path, "numpy"), names, seed)[-1]  # no file is there, so that nothing runs
        assert one.piece.name == "mlp" and one.state == "missing"
        return [case.arguments for each in one.functions for case in each.cases]

    first = inputs(["mlp"], 3)
    assert difference(first, inputs(["layer_norm", "mlp"], 3)) is None
    assert difference(first, inputs(["mlp"], 4)) is not None


def test_a_call_leaves_the_arguments_as_they_were() -> None:
    def adds(x: Any) -> Any:
        x += 1
        return x

    before = CASES[0].arguments["x"].copy()
    assert not np.array_equal(attempted(adds, CASES[0]).value, before)
    assert np.array_equal(CASES[0].arguments["x"], before)


def test_gradients_of_what_has_them() -> None:
    language = object.__new__(Jax)  # Jax() changes the settings of the process
    language._jax = jax
    x, w, seed = np.arange(1.0, 4), np.array([2.0, 3, 5]), np.array([1.0, -1, 1])
    with arithmetic("float64"):
        given = [jnp.asarray(x), {"w": jnp.asarray(w)}, 3, None]
        found = language.gradients(lambda x, d, n, _: n * x * d["w"] if x.sum() > 0 else x, given, seed)
        other = language.gradients(lambda x, d, n, _: x[:2], given, seed)
    right = [3 * w * seed, {"w": 3 * x * seed}, None, None]
    assert other is None and difference(right, found) is None


def test_a_piece_needs_what_its_imports_import(tmp_path: Path) -> None:
    folder(
        tmp_path,
        p16_gpt="from p15_block import block\n",
        p15_block="if True:\n    import p13_layer_norm\n",
        p13_layer_norm="from p16_gpt import gpt\n# from p07_linear_map import linear\n",
    )
    assert LearnFolder.open(tmp_path).needed("gpt") == ["layer_norm", "block"]


def test_the_worst_function_is_the_state_of_a_piece() -> None:
    assert piece("gpt", RIGHT).state == "right"
    assert piece("gpt", RIGHT, UNWRITTEN).state == "not written"
    assert piece("gpt", UNWRITTEN, WRONG, RIGHT).state == "wrong"
    assert piece("gpt", WRONG, UNWRITTEN, RAISED).state == "broken"


def test_the_map_and_what_is_said_of_each_piece() -> None:
    every = [piece("mlp", RIGHT), piece("block", WRONG), piece("gpt", RAISED, imports=("mlp", "block"))]
    lines = [line.plain for line in map_lines(every)]
    assert [line.split() for line in lines[:3]] == [["14", "Mlp", "right"], ["15", "Block", "wrong"], ["16", "Gpt", "broken"]]  # fmt: skip
    assert lines[3:] == ["1 of 3 pieces are right; next: p15_block.py"]
    by_name = {one.piece.name: one for one in every}
    assert not list(piece_lines(every[0], by_name, False))
    begin = "p16_gpt imports p15_block, which is not right yet; begin there."
    assert [line.plain for line in piece_lines(every[2], by_name, False)] == [begin]
    asked = [line.plain for line in piece_lines(every[2], by_name, True)]
    assert asked[:2] == [begin, "p16_gpt: same raises ValueError."]


def test_the_first_difference_is_in_the_table() -> None:
    right = np.zeros((2, 20, 9))
    mine = right.copy()
    mine[1, 13, 7] = 2e-9
    found = difference(right + 1, mine + 1)
    assert found
    lines = [line.plain for line in comparison_lines(found)]
    assert lines[0].startswith("yours at [1]") and lines[-1] == "(rows 10 to 15 of 20, columns 3 to 8 of 9)"
    (marked,) = (line for line in lines if ">" in line)
    assert lines.index(marked) == 4 and ">1.000000002 " in marked and ">1.000000000 " in marked


def test_of_many_parameters_the_shapes_are_shown() -> None:
    given = {"few": {"w": np.array([[0.5, -2.0]])}, "many": {"w": np.ones((5, 5))}, "n_heads": 2}
    assert list(argument_lines(given)) == [
        "few['w'] = [[ 0.5, -2. ]]",
        "many has random numbers of the shapes {'w': (5, 5)}",
        "n_heads = 2",
    ]
