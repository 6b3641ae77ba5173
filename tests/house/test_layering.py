"""Imports point one way: which room may import which, and no circle among modules.

Imports inside functions count; those under `if TYPE_CHECKING:` do not.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.newest

ROOT = Path(__file__).parents[2]

TEXTBOOK = "jaxllm"
LIBRARY = (
    TEXTBOOK, "jaxllm/compare", "jaxllm/data", "jaxllm/fast", "jaxllm/pretrained", "jaxllm/reference",
    "jaxllm/tokenizers", "jaxllm/utils",
)  # fmt: skip
SPINE = "train"
ABOVE_THE_SPINE = ("train/cli", "train/commands", "train/bench", "train/plan", "train/learn", "train/tasks")
RUNS, TUNE, RUNTIME, PARALLEL = "train/runs", "train/tune", "train/runtime", "train/parallel"
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "jaxllm/utils": (),
    "jaxllm/reference": (),
    "jaxllm/tokenizers": ("jaxllm/utils",),
    "jaxllm/data": ("jaxllm/utils", "jaxllm/tokenizers"),
    "jaxllm/fast": ("jaxllm/utils", TEXTBOOK),
    TEXTBOOK: ("jaxllm/utils", "jaxllm/fast"),
    "jaxllm/compare": ("jaxllm/utils", "jaxllm/reference", TEXTBOOK, "jaxllm/fast", "jaxllm/pretrained"),
    "jaxllm/pretrained": ("jaxllm/utils", "jaxllm/tokenizers", "jaxllm/data", TEXTBOOK, "jaxllm/fast"),
    SPINE: (*LIBRARY, PARALLEL, RUNS, RUNTIME, TUNE),
    PARALLEL: (*LIBRARY, SPINE, RUNS, RUNTIME),
    RUNS: (*LIBRARY, SPINE, TUNE),
    TUNE: (*LIBRARY, SPINE, RUNS),
    RUNTIME: ("jaxllm/utils",),
    "train/bench": (*LIBRARY, SPINE, PARALLEL, "train/plan", RUNS, RUNTIME, TUNE),
    "train/plan": (*LIBRARY, SPINE, PARALLEL, RUNS, RUNTIME, TUNE),
    "train/learn": (*LIBRARY, SPINE, PARALLEL, RUNS, RUNTIME),
    "train/tasks": (*LIBRARY, SPINE, RUNS),
    "train/commands": (
        *LIBRARY, SPINE, PARALLEL, RUNS, RUNTIME, TUNE, "train/bench", "train/plan", "train/learn", "train/tasks",
    ),
    "train/cli": (*LIBRARY, SPINE, PARALLEL, RUNS, RUNTIME, "train/bench", "train/commands", "train/plan"),
}  # fmt: skip
WITHOUT_JAX = ("jaxllm/utils", "jaxllm/reference", "jaxllm/tokenizers", "jaxllm/data")


def files() -> dict[str, Path]:
    """Each module of the project and its file."""
    found = {}
    for package in ("jaxllm", "train"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = files()


def room(module: str) -> str:
    """The folder below `jaxllm` or `train`; the root itself for its own modules."""
    if module in ("train.cli", "train.__main__"):
        return "train/cli"
    path = MODULES[module]
    inside = path.relative_to(ROOT).parent.parts
    return "/".join(inside[:2])


def imports(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import below a node but those that only a type checker reads."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        yield from imports(child)


@cache
def imported(module: str) -> frozenset[str]:
    """The full names that a module imports, relative imports resolved."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
            continue
        above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
        base = ".".join([*above, *([node.module] if node.module else [])])
        names |= {f"{base}.{alias.name}" for alias in node.names}
    return frozenset(names)


@cache
def ours(module: str) -> frozenset[str]:
    """The project's modules that a module imports; `from a.b import name` is of `a.b` unless `a.b.name` is a module."""
    found = {name if name in MODULES else name.rpartition(".")[0] for name in imported(module)}
    return frozenset(found & set(MODULES)) - {module}


def reached(module: str) -> set[str]:
    """All modules that a module imports, directly or through others."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        new = ours(waiting.pop()) - seen
        seen |= new
        waiting += new
    return seen


def test_every_room_has_a_rule() -> None:
    assert {room(module) for module in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_a_room_imports_only_rooms_below_it(name: str) -> None:
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        if room(module) == name
        for other in sorted(ours(module))
        if room(other) not in (name, *MAY_IMPORT[name])
    ]
    assert not upward


def test_no_module_reaches_itself() -> None:
    """Within a room, and between the two pairs of rooms that may import each other, imports have an order."""
    assert [module for module in MODULES if module in reached(module)] == []


def test_runs_import_the_part_of_the_spine_that_is_below_them() -> None:
    above = {"train/runs", "train/runtime", *ABOVE_THE_SPINE}
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        if room(module) == "train/runs"
        for other in sorted(ours(module))
        if room(other) == SPINE and {room(far) for far in reached(other)} & above
    ]
    assert not upward


def test_the_library_does_not_import_the_program() -> None:
    tops = {module: {name.partition(".")[0] for name in imported(module)} for module in MODULES}
    assert not [
        module for module in MODULES if module.startswith("jaxllm") and tops[module] & {"train", "jaxllm_train"}
    ]


@pytest.mark.parametrize("name", WITHOUT_JAX)
def test_a_room_without_jax(name: str) -> None:
    for module in MODULES:
        if room(module) == name:
            assert not {one.partition(".")[0] for one in imported(module)} & {"jax", "jaxlib", "flax", "optax"}, module


def test_imports_are_read_as_python_reads_them() -> None:
    assert "jaxllm.config" in ours("jaxllm.gpt") and "train.runs.folder" in ours("train.loop")
    assert ours("train.__main__") == {"train.cli"}
