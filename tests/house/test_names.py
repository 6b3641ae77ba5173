"""One name for one thing: no two classes of the project share a name."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_no_two_classes_share_a_name() -> None:
    """But the forms of one thing: in the textbook, its NumPy reference and `fast`."""
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for package in ("jaxllm", "train"):
        for path in (ROOT / package).rglob("*.py"):
            home = path.relative_to(ROOT).as_posix().replace("/reference/", "/").replace("/fast/", "/")
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    homes[node.name].add(home)
    assert {name: sorted(files) for name, files in homes.items() if len(files) > 1} == {}
