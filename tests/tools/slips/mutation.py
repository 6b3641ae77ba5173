"""A mutation, and a check that it still fits the code that it changes."""

import ast
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[3]


class Mutation(NamedTuple):
    """The mistake, its file, the old text (which must occur there once), the new text, and the test that notices it.

    The test must fail by an assertion. If it fails by another exception, or only one of its assertions is meant, `sign` is
    a part of the exception's message or of the line of the test that raised it.
    """

    what: str
    file: str
    old: str
    new: str
    test: str
    sign: str = ""


def twin(name: str, case: int = 0) -> str:
    return f"model/test_twins.py::test_agrees_with_twin[{name}-{case}-float64-jit]"


def module(name: str) -> str:
    return f"model/test_twins.py::test_module_agrees_with_twin[{name}-float64]"


def stale(mutations: Iterable[Mutation], root: Path = ROOT) -> list[str]:
    """A sentence for each text that does not occur once in its file, and for each test that no file defines."""
    faults = []
    for one in mutations:
        path = root / one.file
        count = path.read_text(encoding="utf-8").count(one.old) if path.is_file() else 0
        if count != 1:
            faults.append(f"{one.what}: {one.old!r} stands {count} times in {one.file}")
        if one.old == one.new:
            faults.append(f"{one.what}: nothing is changed")
        file, _, rest = one.test.partition("::")
        if rest.partition("[")[0] not in _functions(root / "tests" / file):
            faults.append(f"{one.what}: there is no test {one.test}")
    return faults


@cache
def _functions(path: Path) -> frozenset[str]:
    """The names of the functions of a file."""
    if not path.is_file():
        return frozenset()
    return frozenset(
        node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)
    )
