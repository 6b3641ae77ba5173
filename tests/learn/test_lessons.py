"""The lessons: valid files in three languages, nothing of the answer in them, and numbers of examples that are right."""

import ast
import importlib.util
import inspect
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from train.learn.course import ORDER, file_name, piece
from train.learn.piece import Function
from train.learn.start import lesson

pytestmark = pytest.mark.newest

LANGUAGES = ("numpy", "jax", "torch")
EXAMPLE = re.compile(r'^    (\w+\((?:.|\n(?!\n))*?)\n      = ((?:.|\n)*?)\n(?:\n|""")', re.MULTILINE)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ORDER)
def test_a_lesson_is_python_with_the_signatures_of_the_piece(name: str, language: str) -> None:
    tree = ast.parse(lesson(name, language))
    assert ast.get_docstring(tree)
    written = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in written] == [function.name for function in piece(name).functions]
    for node, function in zip(written, piece(name).functions, strict=True):
        assert [argument.arg for argument in node.args.args] == list(inspect.signature(function.right).parameters)
        assert node.returns is not None and all(argument.annotation for argument in node.args.args)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", ORDER)
def test_a_lesson_is_imported_and_its_functions_are_not_written(name: str, language: str, tmp_path: Path) -> None:
    if language == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    path = tmp_path / file_name(name)
    path.write_text(lesson(name, language), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(f"lesson_{language}_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for function in piece(name).functions:
        with pytest.raises(NotImplementedError):
            getattr(module, function.name)(*next(function.cases(np.random.default_rng(0))).values())


@pytest.mark.parametrize("name", ORDER)
def test_bodies_are_empty(name: str) -> None:
    tree = ast.parse(lesson(name, "numpy"))
    allowed = (ast.FunctionDef, ast.Import, ast.ImportFrom)
    assert all(isinstance(node, allowed) for node in tree.body[1:])
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node) and len(node.body) == 2
            assert ast.unparse(node.body[1]) == "raise NotImplementedError"


@pytest.mark.parametrize("name", ORDER)
def test_names_no_call_that_is_the_answer(name: str) -> None:
    calls = r"(?:np|jnp|jax|torch|F|math|re|scipy|nn)\.[a-z_.]+\(|einsum|argmax|cumsum|logsumexp|log_softmax|einsum|@ "
    text = lesson(name, "numpy")
    assert not re.findall(calls, text)
    assert max(map(len, text.splitlines())) <= 120 and text.endswith("raise NotImplementedError\n")


@pytest.mark.parametrize("name", ORDER)
def test_the_numbers_of_the_examples_are_right(name: str) -> None:
    functions = {function.name: function for function in piece(name).functions}
    found = list(examples(lesson(name, "numpy")))
    assert {name for name, _, _ in found} == set(functions), "each function has an example"
    for called, arguments, result in found:
        got = functions[called].right(*given(functions[called], arguments))
        assert_shown(got, ast.literal_eval(result), rounding(result))


def examples(text: str) -> Iterator[tuple[str, list[Any], str]]:
    """The name, the arguments and the printed result of each example."""
    for call, result in EXAMPLE.findall(text):
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords
        yield node.func.id, [ast.literal_eval(argument) for argument in node.args], result


def given(function: Function, arguments: list[Any]) -> list[Any]:
    """The arguments, with arrays where some case of the piece has arrays."""
    places: list[set[bool]] = [set() for _ in arguments]
    for case in function.cases(np.random.default_rng(0)):
        for place, value in zip(places, case.values(), strict=False):
            inner = next(iter(value.values())) if isinstance(value, dict) and value else value
            place.add(isinstance(inner, np.ndarray | dict))
    return [as_arrays(a) if True in place else a for a, place in zip(arguments, places, strict=True)]


def as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: as_arrays(part) for name, part in value.items()}
    return np.array(value) if isinstance(value, list) else value


def rounding(result: str) -> float:
    """Half of the last digit of the longest decimal that is printed."""
    exponents = [Decimal(number).as_tuple().exponent for number in re.findall(r"\d+\.\d+", result)]
    return 0.5 * 10.0 ** min(map(int, exponents), default=0) + 1e-12 if exponents else 0.0


def assert_shown(got: Any, shown: Any, within: float) -> None:
    """Holds a result to what the lesson prints, to the digits that it prints."""
    if isinstance(shown, dict):
        assert got.keys() == shown.keys()
        for name, part in shown.items():
            assert_shown(got[name], part, within)
    elif isinstance(shown, tuple) or isinstance(got, list | str):
        if isinstance(shown, tuple) and not isinstance(got, list):
            assert len(got) == len(shown)
            for a, b in zip(got, shown, strict=True):
                assert_shown(a, b, within)
        else:
            assert got == shown
    else:
        assert np.shape(got) == np.shape(shown)
        np.testing.assert_allclose(np.asarray(got, float), np.asarray(shown, float), rtol=0, atol=within)
